"""The directory a model lives in: a `transformers` model directory with a `llavakit` section in its config.json.

Where a class of `transformers` can hold the model (hf_config.py says which), config and key names are those of that
class, in the spelling of the released hub files, which every version reads. A linear connector is written as its
exact equal there: an identity second layer with a linear activation. What no class computes says model_type
`llavakit` and loads only here. Weights are safetensors only. A model with adapters is written as an adapter
directory (adapters.py), which loads by its path like any other.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers import AutoHfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.core.files import atomic_directory
from llavakit.model.adapters import (
    Adapter,
    adapter_config,
    adapter_tensors,
    load_adapter,
    read_adapter,
    write_adapter,
)
from llavakit.model.assemble import with_media_tokens
from llavakit.model.card import Card
from llavakit.model.directory import load_card, resolve, settings_of
from llavakit.model.empty import empty_model, new_rows
from llavakit.model.formats.halves import upper_half
from llavakit.model.formats.original import is_original
from llavakit.model.formats.quantized import for_decoder, method_of, stored_quantization
from llavakit.model.formats.shards import write_shards
from llavakit.model.formats.weights import Weights, in_memory, read_all
from llavakit.model.hf_config import hf_config, processor_files
from llavakit.model.huggingface import hf_tensors
from llavakit.model.llava import Llava
from llavakit.model.opening import check_fit, check_quantized_fit, open_hf, open_model
from llavakit.model.placement import DeviceMap, place_language
from llavakit.model.rope import cast, linear_factor
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer


@dataclass
class Checkpoint:
    """A model with all that is needed to speak to it."""

    model: Llava
    tokenizer: Tokenizer
    card: Card
    adapter: Adapter | None = None  # the model has adapters: what is saved is those, not the model
    unread: Weights = field(
        default_factory=dict
    )  # of the decoder, by name: its parameters have no memory yet


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the directory, all or nothing."""
    with atomic_directory(path) as draft:
        write(checkpoint, draft)


def write(checkpoint: Checkpoint, folder: Path, *, half: bool = False) -> None:
    """Write model, settings, tokenizer and processor into an existing folder; `half`: float32 weights in bf16."""
    write_settings(checkpoint, folder, half=half)
    if checkpoint.adapter is not None:
        tensors = adapter_tensors(checkpoint.model, checkpoint.adapter)
        write_adapter(checkpoint.model, checkpoint.adapter, tensors, folder)
    else:
        weights = in_memory(hf_tensors(checkpoint.model, checkpoint.card))
        if half:
            weights = {key: stored.then(upper_half) for key, stored in weights.items()}
        write_shards(weights, folder)


def write_settings(checkpoint: Checkpoint, folder: Path, *, half: bool = False) -> None:
    """All files of the directory but the weights, which are in bf16 with `half`."""
    model, card = checkpoint.model, checkpoint.card
    if checkpoint.adapter is None and "quantization_config" in model.language.config.to_dict():
        raise CheckpointError(
            f"{folder}: a quantized decoder cannot be written; save the model it was read from"
        )
    files = {
        "config.json": hf_config(model, card, checkpoint.tokenizer, half=half),
        "generation_config.json": {
            "eos_token_id": sorted(checkpoint.tokenizer.stop_ids(template(card.template)))
        },
        **processor_files(model, card),
    }
    if checkpoint.adapter is not None:
        files["config.json"] |= adapter_config(checkpoint.adapter, folder)
        files["config.json"]["text_config"].pop(
            "quantization_config", None
        )  # of this training, not of the base
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    checkpoint.tokenizer.save(folder, card.prompt())


def load(
    path: Path,
    *,
    template_name: str | None = None,
    dtype: torch.dtype | None = None,
    rope_factor: float | None = None,
    device_map: DeviceMap | None = None,
    quantization: QuantizationConfigMixin | None = None,
    unread: bool = False,
) -> Checkpoint:
    """A checkpoint written by `save`, or a Hugging Face or original LLaVA directory (those need `template_name`).

    Weights keep the type they are stored in unless `dtype` says otherwise. `rope_factor` divides the decoder's
    positions (rope.py). `device_map` spreads the decoder and `quantization` shrinks it (placement.py). An adapter
    directory is loaded on top of the checkpoint it names, which all of this holds for. With `unread` the decoder's
    own weights stay in their files, for ranks that take a share of each.
    """
    folder = resolve(path)
    config = settings_of(folder)
    card = load_card(folder, template_name)
    adapter = read_adapter(config, folder)
    if adapter is not None:
        base = load(
            adapter.base,
            template_name=card.template,
            dtype=dtype,
            rope_factor=rope_factor or linear_factor(config["text_config"]),
            device_map=device_map,
            quantization=quantization,
            unread=unread,
        )
        load_adapter(base.model, adapter, folder, *new_rows(card, base.model.width), dtype=dtype)
        return Checkpoint(base.model, Tokenizer.load(folder, ours=True), card, adapter, base.unread)
    stored = stored_quantization(config)
    if stored is not None:
        return _load_quantized(folder, config, stored, template_name, rope_factor, device_map, quantization)
    opened = open_model(folder, template_name)
    if is_original(config):
        opened = with_media_tokens(opened)
    as_stored = device_map is None and quantization is None
    model = empty_model(
        card,
        opened.text,
        opened.vision,
        rope_factor=rope_factor,
        device="cpu" if as_stored else "meta",
        unread=unread,
    )
    check_fit(opened.weights, model, folder)
    left = {key: stored for key, stored in opened.weights.items() if unread and key.startswith("language.")}
    tensors = read_all({key: stored for key, stored in opened.weights.items() if key not in left})
    if as_stored:
        model.load_state_dict(tensors, assign=True, strict=False)  # a head that is tied is not among them
        model.language.tie_weights()
        if dtype is not None:
            cast(model.language, dtype)
            for part in (model.tower, model.connector, model.newline, model.score):
                part.to(dtype)
    else:
        model = place_language(model, tensors, dtype=dtype, device_map=device_map, quantization=quantization)
    return Checkpoint(model, opened.tokenizer, card, unread=left)


def _load_quantized(
    folder: Path,
    config: dict[str, Any],
    stored: dict[str, Any],
    template_name: str | None,
    rope_factor: float | None,
    device_map: DeviceMap | None,
    quantization: QuantizationConfigMixin | None,
) -> Checkpoint:
    """A model whose decoder was stored quantized, by the means of `transformers`, for answering only."""
    if quantization is not None or is_original(config):
        what = "is quantized already" if quantization is not None else "is quantized in the original layout"
        raise ConfigError(f"{folder}: {what} ({method_of(stored)}); take the model that it was made from")
    opened = open_hf(folder, config, template_name)
    model = empty_model(opened.card, opened.text, opened.vision, rope_factor=rope_factor, device="meta")
    check_quantized_fit(opened.weights, model, folder)
    if not AutoHfQuantizer.supports_quant_method(stored):  # it would only warn, and read random numbers
        raise ConfigError(f"{folder}: quantized by {method_of(stored)}, which transformers does not know")
    settings: Any = model.language.config
    settings.quantization_config = for_decoder(stored)
    where = device_map or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = place_language(
            model, read_all(opened.weights), dtype=None, device_map=where, quantization=None
        )
    except (ConfigError, ImportError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{folder}: quantized by {method_of(stored)}, which cannot be used here: {reason}"
        ) from None
    return Checkpoint(model, opened.tokenizer, opened.card)
