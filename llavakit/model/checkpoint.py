"""The directory a model lives in: a `transformers` model directory with a `llavakit` section in its config.json.

Where a class of `transformers` can hold the model (hf_config.py says which), config and key names are those of that
class, in the spelling of the released hub files, which every version reads. A linear connector is written as its
exact equal there: an identity second layer with a linear activation. What no class computes says model_type
`llavakit` and loads only here. Weights are safetensors only. A model with adapters is written as an adapter
directory (adapters.py), which loads by its path like any other.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.utils.quantization_config import QuantizationConfigMixin

from llavakit.core.errors import CheckpointError
from llavakit.core.files import atomic_directory, read_json
from llavakit.model.adapters import (
    Adapter,
    adapter_config,
    adapter_tensors,
    load_adapter,
    merge_adapters,
    read_adapter,
    write_adapter,
)
from llavakit.model.assemble import read_original
from llavakit.model.card import Card, load_card, resolve
from llavakit.model.connector import build_connector
from llavakit.model.formats.original import is_original
from llavakit.model.hf_card import part_settings
from llavakit.model.hf_config import hf_config, processor_files
from llavakit.model.huggingface import hf_tensors, our_tensors
from llavakit.model.llava import Llava, Newline
from llavakit.model.placement import DeviceMap, place_language
from llavakit.model.rope import linear_factor, stretch_config
from llavakit.model.tower import empty_tower
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer


@dataclass
class Checkpoint:
    """A model with all that is needed to speak to it."""

    model: Llava
    tokenizer: Tokenizer
    card: Card
    adapter: Adapter | None = None  # the model has adapters: what is saved is those, not the model


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the directory, all or nothing."""
    with atomic_directory(path) as draft:
        write(checkpoint, draft)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write model, settings, tokenizer and processor into an existing folder."""
    write_settings(checkpoint, folder)
    if checkpoint.adapter is not None:
        tensors = adapter_tensors(checkpoint.model, checkpoint.adapter)
        write_adapter(checkpoint.model, checkpoint.adapter, tensors, folder)
    else:
        save_torch_state_dict(
            hf_tensors(checkpoint.model, checkpoint.card), folder, metadata={"format": "pt"}
        )


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """All files of the directory but the weights."""
    model, card = checkpoint.model, checkpoint.card
    if checkpoint.adapter is None and "quantization_config" in model.language.config.to_dict():
        raise CheckpointError(
            f"{folder}: a quantized decoder cannot be written; save the model it was read from"
        )
    files = {
        "config.json": hf_config(model, card, checkpoint.tokenizer),
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
    checkpoint.tokenizer.hf.save_pretrained(folder)


def load(
    path: Path,
    *,
    template_name: str | None = None,
    dtype: torch.dtype | None = None,
    rope_factor: float | None = None,
    device_map: DeviceMap | None = None,
    quantization: QuantizationConfigMixin | None = None,
) -> Checkpoint:
    """A checkpoint written by `save`, or a Hugging Face or original LLaVA directory (those need `template_name`).

    Weights keep the type they are stored in unless `dtype` says otherwise. `rope_factor` divides the decoder's
    positions (rope.py). `device_map` spreads the decoder and `quantization` shrinks it (placement.py). An adapter
    directory is loaded on top of the checkpoint it names, which all of this holds for.
    """
    folder = resolve(path)
    config = read_json(folder / "config.json")
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
        )
        load_adapter(base.model, adapter, folder, separators=card.separators, dtype=dtype)
        return Checkpoint(base.model, Tokenizer.load(folder, ours=True), card, adapter)
    if is_original(config):
        text, vision, stored, tokenizer = read_original(folder, template_name)
    else:
        text, vision = part_settings(config, folder)
        stored, tokenizer = _read_tensors(folder), Tokenizer.load(folder, ours="llavakit" in config)
    as_stored = device_map is None and quantization is None
    model = empty_model(card, text, vision, rope_factor=rope_factor, device="cpu" if as_stored else "meta")
    tensors = _fitting(model, stored, card, folder)
    if as_stored:
        model.load_state_dict(tensors, assign=True)
        model.language.tie_weights()
        model = model if dtype is None else model.to(dtype)
    else:
        model = place_language(model, tensors, dtype=dtype, device_map=device_map, quantization=quantization)
    return Checkpoint(model, tokenizer, card)


def empty_model(
    card: Card,
    text: dict[str, Any],
    vision: dict[str, Any] | None,
    *,
    rope_factor: float | None = None,
    device: str = "cpu",
) -> Llava:
    """A model of the right shape whose weights a checkpoint will fill; the decoder's are on `device`."""
    settings = AutoConfig.for_model(**text)
    if rope_factor is not None:
        stretch_config(settings, rope_factor)
    with no_init_weights(), torch.device(device):
        language = AutoModelForCausalLM.from_config(settings)
    tower = empty_tower(card.tower, card.image, vision)
    connector = build_connector(card.connector, tower.width, settings.hidden_size)
    return Llava(tower, connector, language, Newline(card.separators, settings.hidden_size))


def merge(path: Path, out: Path) -> None:
    """Write the adapters of `path` and their base as one ordinary checkpoint."""
    if out.exists():
        raise CheckpointError(f"{out} is already there; name a new directory")
    loaded = load(path)
    if loaded.adapter is None:
        raise CheckpointError(f"{path} is an ordinary checkpoint; there is nothing to merge")
    merge_adapters(loaded.model)
    save(replace(loaded, adapter=None), out)


def _fitting(model: Llava, stored: dict[str, Tensor], card: Card, folder: Path) -> dict[str, Tensor]:
    """Stored tensors under our names; a missing, unknown or misshaped one is one clear line."""
    try:
        tensors = our_tensors(stored, model.language, card)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            shapes = f"{list(tensor.shape)} in the file, {list(expected[key].shape)} by config.json"
            raise CheckpointError(f"{folder}: {key} is {shapes}")
    return tensors


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no .safetensors file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors
