"""A run's model without its numbers: every module with its shapes on PyTorch's meta device, no weight file read."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig

from llavakit.core.errors import ConfigError
from llavakit.core.files import read_json
from llavakit.model.adapters import add_adapters
from llavakit.model.assemble import decoder_settings, read_tokenizer
from llavakit.model.build import add_tokens, check_parts
from llavakit.model.directory import complete_card, is_bare_adapter, load_card, resolve
from llavakit.model.empty import empty_model
from llavakit.model.families import DECODERS
from llavakit.model.formats.hub import is_reachable
from llavakit.model.formats.lora import named_base
from llavakit.model.formats.original import is_original, vision_settings
from llavakit.model.formats.towers import TOWERS
from llavakit.model.hf_card import part_settings
from llavakit.model.llava import Llava
from llavakit.model.rope import with_context
from llavakit.model.settings import LanguageConfig, ModelConfig
from llavakit.text.grading import Grading
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer

Settings = dict[str, Any]
FROM_TABLE = "dimensions from llavakit's table, as the hub cannot be reached; the run needs its files"


def outline(config: ModelConfig, notes: list[str] | None = None, grading: Grading | None = None) -> Llava:
    """The model of `build(config, grading)` on the meta device, adapters included.

    Shapes stay plain where the run has four bits.

    Reads settings and a tokenizer only. A published part whose hub cannot be reached has the dimensions of our
    table, without rows that a start may add to its vocabulary; each such part is a line in `notes`. Raises
    ConfigError or CheckpointError for what else is not on this machine.
    """
    notes = [] if notes is None else notes
    card = complete_card(config).model_copy(update={"grading": grading})
    dtype, vision, tokenizer = (
        torch.float32,
        None,
        None,
    )  # as a run holds it, whatever the files do (build.py)
    if config.start is None:
        text, tokenizer = _language(config.language, notes)
        if card.tower.kind == "transformers":
            vision = _vision(card.tower.path, notes)
    else:
        check_parts(card, load_card(config.start, card.template), config.start)
        text, vision, tokenizer, stored = _started(resolve(config.start, weights=False))
        if config.lora is not None and config.lora.four_bit:
            dtype = stored
    with torch.device("meta"):
        model = empty_model(card, text, vision, rope_factor=config.rope_factor, device="meta").to(dtype)
        model.language.tie_weights()  # one table where the decoder has one
        if tokenizer is not None:
            add_tokens(model.language, tokenizer, [IMAGE_TOKEN, *card.special_tokens])
        if config.lora is not None:
            add_adapters(model, config.lora)
    return model


def _started(folder: Path) -> tuple[Settings, Settings | None, Tokenizer, torch.dtype]:
    """Settings of decoder and tower, tokenizer, and type of the weights of a checkpoint."""
    folder = named_base(folder) if is_bare_adapter(folder) else folder
    settings = read_json(folder / "config.json")
    dtype = vars(torch)[settings.get("dtype") or settings.get("torch_dtype") or "float32"]
    if is_original(settings):
        where = f"{folder}/config.json"
        text, vision = decoder_settings(settings, where), vision_settings(settings, where)
        return text, vision, read_tokenizer(folder, settings), dtype
    return *part_settings(settings, folder), Tokenizer.load(folder, ours="llavakit" in settings), dtype


def _language(language: LanguageConfig, notes: list[str]) -> tuple[Settings, Tokenizer | None]:
    """Settings of the decoder and its tokenizer; from our table there is none."""
    where = language.path if language.gguf is None else str(language.gguf.parent)
    extra = {} if language.gguf is None else {"gguf_file": language.gguf.name}
    local_only = _is_local_only(where)
    try:
        settings = AutoConfig.from_pretrained(where, local_files_only=local_only, **extra)
    except (OSError, ValueError) as error:
        if language.gguf is None and where in DECODERS and _unreachable(error):
            notes.append(f"model.language.path={where}: {FROM_TABLE}")
            return AutoConfig.for_model(**DECODERS[where].config()).to_dict(), None
        setting = "path" if language.gguf is None else "gguf"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.language.{setting}={language.gguf or where}: {reason}") from None
    if language.gguf is None:
        return with_context(settings.to_dict()), Tokenizer.load(where, local_only=local_only)
    return with_context(settings.to_dict()), Tokenizer.load(
        language.gguf.parent, gguf_file=language.gguf.name
    )


def _vision(path: str, notes: list[str]) -> Settings:
    try:
        settings = AutoConfig.from_pretrained(path, local_files_only=_is_local_only(path))
    except (OSError, ValueError) as error:
        if path in TOWERS and _unreachable(error):
            notes.append(f"model.tower.path={path}: {FROM_TABLE}")
            return TOWERS[path].fresh_config()
        raise ConfigError(f"model.tower.path={path}: {str(error).splitlines()[0]}") from None
    settings = settings.vision_config if "vision_config" in settings.sub_configs else settings
    found: Settings = settings.to_dict()
    return found


def _is_local_only(path: str) -> bool:
    """Whether of this hub id there is only what the cache has."""
    return not Path(path).is_dir() and not is_reachable()


def _unreachable(error: Exception) -> bool:
    """The hub did not answer and nothing is in its cache. A hub that says no is another matter."""
    return isinstance(error.__cause__, LocalEntryNotFoundError)
