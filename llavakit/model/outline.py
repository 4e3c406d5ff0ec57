"""A run's model without its numbers: every module with its shapes on PyTorch's meta device, no weight file read."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from llavakit.core.errors import ConfigError
from llavakit.core.files import read_json
from llavakit.model.adapters import add_adapters
from llavakit.model.build import LanguageConfig, ModelConfig, add_tokens, check_parts
from llavakit.model.card import load_card, resolve
from llavakit.model.checkpoint import empty_model
from llavakit.model.convert.assemble import read_tokenizer
from llavakit.model.convert.original import is_original, text_settings, vision_settings
from llavakit.model.hf_card import part_settings
from llavakit.model.llava import Llava
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer

Settings = dict[str, Any]


def outline(config: ModelConfig) -> Llava:
    """The model of `build(config)` on the meta device, adapters included (four bits are not: shapes stay plain).

    Reads settings and a tokenizer only. Raises ConfigError or CheckpointError for what is not on this machine.
    """
    card = config.card()
    dtype = torch.float32
    if config.start is None:
        text, tokenizer = _language(config.language)
        vision = _vision(card.tower.path) if card.tower.kind == "transformers" else None
    else:
        check_parts(card, load_card(config.start, card.template), config.start)
        text, vision, tokenizer, dtype = _started(resolve(config.start))
    with torch.device("meta"):
        model = empty_model(card, text, vision, rope_factor=config.rope_factor, device="meta").to(dtype)
        add_tokens(model.language, tokenizer, [IMAGE_TOKEN, *card.special_tokens])
        if config.lora is not None:
            add_adapters(model, config.lora)
    return model


def _started(folder: Path) -> tuple[Settings, Settings | None, Tokenizer, torch.dtype]:
    """Settings of decoder and tower, tokenizer, and type of the weights of a checkpoint."""
    settings = read_json(folder / "config.json")
    dtype = vars(torch)[settings.get("dtype") or settings.get("torch_dtype") or "float32"]
    if is_original(settings):
        where = f"{folder}/config.json"
        text, vision = text_settings(settings, where), vision_settings(settings, where)
        return text, vision, read_tokenizer(folder, settings), dtype
    return *part_settings(settings, folder), Tokenizer.load(folder, ours="llavakit" in settings), dtype


def _language(language: LanguageConfig) -> tuple[Settings, Tokenizer]:
    where = language.path if language.gguf is None else str(language.gguf.parent)
    extra = {} if language.gguf is None else {"gguf_file": language.gguf.name}
    try:
        settings = AutoConfig.from_pretrained(where, **extra)
    except (OSError, ValueError) as error:
        setting = "path" if language.gguf is None else "gguf"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.language.{setting}={language.gguf or where}: {reason}") from None
    if language.gguf is None:
        return settings.to_dict(), Tokenizer.load(where)
    return settings.to_dict(), Tokenizer.load(language.gguf.parent, gguf_file=language.gguf.name)


def _vision(path: str) -> Settings:
    try:
        settings = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.tower.path={path}: {str(error).splitlines()[0]}") from None
    settings = settings.vision_config if "vision_config" in settings.sub_configs else settings
    found: Settings = settings.to_dict()
    return found
