"""A run's model without its numbers: every module with its shapes on PyTorch's meta device, no weight file read."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from llavakit.core.errors import ConfigError
from llavakit.model.adapters import add_adapters
from llavakit.model.build import LanguageConfig, ModelConfig, check_parts, make_room
from llavakit.model.card import IMAGE_FRAME, VISION_DEFAULTS, load_card, read_json, resolve
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava, Newline
from llavakit.model.tower import empty_tower
from llavakit.text.tokenizer import Tokenizer


def outline(config: ModelConfig) -> Llava:
    """The model of `build(config)` on the meta device, adapters included (four bits are not: shapes stay plain).

    Reads settings and a tokenizer only. Raises ConfigError or CheckpointError for what is not on this machine.
    """
    card = config.card()
    if config.start is not None:
        check_parts(card, load_card(config.start, card.template), config.start)
        settings = read_json(resolve(config.start) / "config.json")
        text = dict(settings["text_config"])
        text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        vision = {**VISION_DEFAULTS, **settings["vision_config"]} if "vision_config" in settings else None
        dtype = vars(torch)[settings.get("dtype", "float32")]
        tokenizer = None
    else:
        text_config = _language_config(config.language)
        vision = _vision_config(card.tower.path) if card.tower.kind == "transformers" else None
        dtype = torch.float32
        where = config.language
        tokenizer = (
            Tokenizer.load(where.path)
            if where.gguf is None
            else Tokenizer.load(where.gguf.parent, gguf_file=where.gguf.name)
        )
    with torch.device("meta"):
        language: PreTrainedModel = AutoModelForCausalLM.from_config(text_config, dtype=dtype)
        if tokenizer is not None:
            make_room(language, tokenizer, IMAGE_FRAME if card.im_start_end else ())
        tower = empty_tower(card.tower, card.image, vision).to(dtype)
        connector = build_connector(card.connector, tower.width, text_config.hidden_size).to(dtype)
        newline = Newline(card.marks, text_config.hidden_size)
        model = Llava(tower, connector, language, newline)
        if config.lora is not None:
            add_adapters(model, config.lora.model_copy(update={"four_bit": False}))
    return model


def _language_config(language: LanguageConfig) -> PretrainedConfig:
    where = language.path if language.gguf is None else str(language.gguf.parent)
    extra = {} if language.gguf is None else {"gguf_file": language.gguf.name}
    try:
        return AutoConfig.from_pretrained(where, **extra)
    except (OSError, ValueError) as error:
        setting = "path" if language.gguf is None else "gguf"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.language.{setting}={language.gguf or where}: {reason}") from None


def _vision_config(path: str) -> dict[str, object]:
    try:
        settings = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.tower.path={path}: {str(error).splitlines()[0]}") from None
    settings = settings.vision_config if "vision_config" in settings.sub_configs else settings
    found: dict[str, object] = settings.to_dict()
    return found
