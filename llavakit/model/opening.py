"""Any directory with a model, opened: its card, settings and tokenizer, and its weights still in their files.

The one reader of chat, training, conversion, export and serving.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.core.files import read_json
from llavakit.core.progress import say
from llavakit.model.adapters import CARRIED, PARTS_FILE, SECTION, TOWER_FOLDER, read_adapter
from llavakit.model.assemble import NOTHING, Opened, Sources, open_original
from llavakit.model.directory import is_bare_adapter, load_card, released_family
from llavakit.model.empty import empty_model
from llavakit.model.formats.hub import locate
from llavakit.model.formats.keys import BUFFERS, from_hf
from llavakit.model.formats.lora import merge_lora, named_base
from llavakit.model.formats.original import is_original
from llavakit.model.formats.quantized import method_of, stored_quantization
from llavakit.model.formats.vocabulary import HEAD
from llavakit.model.formats.weights import Weights, open_file, open_weights
from llavakit.model.hf_card import part_settings
from llavakit.model.llava import Llava
from llavakit.text.tokenizer import Tokenizer


def open_model(folder: Path, template_name: str | None, sources: Sources = NOTHING) -> Opened:
    """A directory of released code, of `transformers` or of llavakit; adapters join their base."""
    if is_bare_adapter(folder):
        return _open_bare_adapter(folder, template_name, sources)
    config, row = read_json(folder / "config.json"), released_family(folder)
    if row is not None and row.delta and sources.delta_base is None:
        raise CheckpointError(
            f"{row.released} was released as differences to LLaMA's weights; add them first: "
            f"llavakit convert {row.released} OUT --to llavakit --delta-base LLAMA"
        )
    if is_original(config):
        return open_original(folder, template_name, sources)
    if sources != NOTHING:
        raise ConfigError(
            f"{folder} is no original LLaVA directory; --base, --delta-base and --tower are for those "
            "(--tower also names the tower of one that is written)"
        )
    quantization = stored_quantization(config)
    if quantization is not None:
        raise CheckpointError(
            f"{folder}: its weights are quantized ({method_of(quantization)}): such a model answers, but is "
            "neither trained, converted nor exported; take the one that it was made from"
        )
    if SECTION in config:
        return _open_adapted(folder, config)
    return open_hf(folder, config, template_name)


def check_fit(weights: Weights, model: Llava, folder: Path) -> None:
    """Whether these are the weights of this model; a missing, unknown or misshaped one is one clear line."""
    _check_names(weights, _shapes(model), folder)


def check_quantized_fit(weights: Weights, model: Llava, folder: Path) -> None:
    """The same where the decoder's weights are packed, which is its scheme's business; the rest must be plain."""
    rest = {key: stored for key, stored in weights.items() if _part(key) != "language"}
    expected = {key: shape for key, shape in _shapes(model).items() if _part(key) != "language"}
    packed = sorted(rest.keys() - expected.keys())
    if packed:
        raise CheckpointError(
            f"{folder}: tower or projector are quantized too ({packed[0]}), which llavakit does not read; "
            "take the model that it was made from, and quantize while loading"
        )
    _check_names(rest, expected, folder)


def _shapes(model: Llava) -> dict[str, tuple[int, ...]]:
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if model.language.config.tie_word_embeddings:
        expected.pop(HEAD, None)
    return expected


def _check_names(weights: Weights, expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}"
        )
    for key, stored in weights.items():
        if stored.shape != expected[key]:
            shapes = f"{list(stored.shape)} in the file, {list(expected[key])} by config.json"
            raise CheckpointError(f"{folder}: {key} is {shapes}")


def shape_of(opened: Opened) -> Llava:
    """The model without memory: for its shapes and settings."""
    with torch.device("meta"):
        return empty_model(opened.card, opened.text, opened.vision, device="meta")


def open_hf(folder: Path, config: dict[str, Any], template_name: str | None) -> Opened:
    """A directory of `transformers` or llavakit, with its weights still in their files."""
    card = load_card(folder, template_name)
    text, vision = part_settings(config, folder)
    ours = "llavakit" in config
    tokenizer = Tokenizer.load(folder, ours=ours)
    opened = Opened(card, text, vision, {}, tokenizer, folder, card.tower.path if ours else None)
    language = shape_of(opened).language
    rename = _renaming(language)
    weights = {
        rename(key): stored for key, stored in open_weights(folder).items() if not key.endswith(BUFFERS)
    }
    if language.config.tie_word_embeddings:
        weights.pop(HEAD, None)
    if card.connector.kind == "linear":
        _drop_identity(weights, folder)
    return opened.with_weights(weights)


def _drop_identity(weights: Weights, folder: Path) -> None:
    """A linear connector's second layer, which in `transformers` form is an identity."""
    weight, bias = (weights.pop(f"connector.linear_2.{leaf}", None) for leaf in ("weight", "bias"))
    if weight is None or bias is None:
        return
    matrix = weight.read()
    if not matrix.equal(torch.eye(len(matrix), dtype=matrix.dtype)) or bias.read().any():
        raise CheckpointError(f"{folder}: connector.kind is linear, but the second layer is not an identity")


def _renaming(language: PreTrainedModel) -> Callable[[str], str]:
    """Our name for a weight of a LLaVA of `transformers` with this decoder."""
    children = frozenset(name for name, _ in language.named_children())
    return partial(from_hf, base=language.base_model_prefix, children=children)


def _open_bare_adapter(folder: Path, template_name: str | None, sources: Sources) -> Opened:
    """An adapter that peft wrote for a whole LLaVA (TRL, LLaMA-Factory, unsloth), added to the base it names."""
    base = open_model(named_base(folder) if sources.base is None else locate(sources.base), template_name)
    language = shape_of(base).language
    say(f"note: {folder}: an adapter, added to {base.tokenizer_folder}")
    return base.with_weights(merge_lora(base.weights, folder, _renaming(language)))


def _open_adapted(folder: Path, config: dict[str, Any]) -> Opened:
    """An adapter directory of ours as the ordinary model that it makes of its base."""
    card, adapter = load_card(folder), read_adapter(config, folder)
    assert adapter is not None  # its section is there
    base = open_model(adapter.base, card.template)
    weights = merge_lora(base.weights, folder)
    if adapter.lora.tower:
        weights = merge_lora(weights, folder / TOWER_FOLDER, lambda key: "tower.vision." + key)
    weights = {key: stored for key, stored in weights.items() if _part(key) not in CARRIED}
    weights |= open_file(folder / PARTS_FILE)
    text, vision = part_settings(config, folder)
    tokenizer = Tokenizer.load(folder, ours=True)
    return Opened(card, text, vision, weights, tokenizer, folder, card.tower.path)


def _part(key: str) -> str:
    return key.partition(".")[0]
