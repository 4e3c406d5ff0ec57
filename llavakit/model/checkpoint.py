"""The directory a model lives in: a `transformers` model directory with a `llavakit` section in its config.json.

Where a Hugging Face class can express the model (a CLIP or SigLIP tower), config and key names are those of
`LlavaForConditionalGeneration`, in the spelling of the released hub files, which every version reads. A linear
connector is written as its exact equal in that class: an identity second layer with a linear activation. A
convolutional tower (or a standardizing connector) has no such class: the directory then says model_type
`llavakit` and loads only here. Weights are safetensors only. A model with adapters is written as an adapter
directory (adapters.py), which loads by its path like any other.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llavakit.core.errors import CheckpointError
from llavakit.core.files import atomic_directory
from llavakit.model.adapters import (
    Adapter,
    adapter_config,
    load_adapter,
    merge_adapters,
    read_adapter,
    write_adapter,
)
from llavakit.model.card import VISION_DEFAULTS, Card, load_card, read_json, resolve
from llavakit.model.connector import build_connector
from llavakit.model.huggingface import hf_config, hf_tensors, our_tensors, processor_files
from llavakit.model.llava import Llava, Newline
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
    model, card = checkpoint.model, checkpoint.card
    files = {
        "config.json": hf_config(model, card, checkpoint.tokenizer.image_token_id),
        "generation_config.json": {
            "eos_token_id": sorted(checkpoint.tokenizer.stop_ids(template(card.template)))
        },
        **processor_files(model, card),
    }
    if checkpoint.adapter is not None:
        files["config.json"] |= adapter_config(checkpoint.adapter, folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    checkpoint.tokenizer.hf.save_pretrained(folder)
    if checkpoint.adapter is not None:
        write_adapter(model, checkpoint.adapter, folder)
    else:
        save_torch_state_dict(hf_tensors(model, card), folder, metadata={"format": "pt"})


def load(
    path: Path,
    *,
    template_name: str | None = None,
    dtype: torch.dtype | None = None,
    four_bit: bool = False,
) -> Checkpoint:
    """A checkpoint written by `save`, or a Hugging Face LLaVA directory (then `template_name` is needed to talk).

    Weights keep the type they are stored in unless `dtype` says otherwise. An adapter directory is loaded on top of
    the checkpoint it names, whose decoder is in `four_bit` if asked (to train on); other ones ignore that.
    """
    folder = resolve(path)
    config = read_json(folder / "config.json")
    card = load_card(folder, template_name)
    adapter = read_adapter(config, folder, four_bit=four_bit)
    if adapter is not None:
        base = load(adapter.base, template_name=card.template, dtype=dtype)
        load_adapter(base.model, adapter, folder)
        return Checkpoint(base.model, Tokenizer.load(folder, ours=True), card, adapter)
    with no_init_weights():
        settings = dict(config["text_config"])
        language = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings)
        )
    vision = {**VISION_DEFAULTS, **config["vision_config"]} if "vision_config" in config else None
    tower = empty_tower(card.tower, card.image, vision)
    connector = build_connector(card.connector, tower.width, language.config.hidden_size)
    model = Llava(tower, connector, language, Newline(card.marks, language.config.hidden_size))
    _fill(model, _read_tensors(folder), card, folder)
    return Checkpoint(
        model if dtype is None else model.to(dtype), Tokenizer.load(folder, ours="llavakit" in config), card
    )


def merge(path: Path, out: Path) -> None:
    """Write the adapters of `path` and their base as one ordinary checkpoint."""
    if out.exists():
        raise CheckpointError(f"{out} is already there; name a new directory")
    loaded = load(path)
    if loaded.adapter is None:
        raise CheckpointError(f"{path} is an ordinary checkpoint; there is nothing to merge")
    merge_adapters(loaded.model)
    save(replace(loaded, adapter=None), out)


def _fill(model: Llava, stored: dict[str, Tensor], card: Card, folder: Path) -> None:
    """Move stored tensors into the model; a missing, unknown or misshaped one is one clear line."""
    try:
        tensors = our_tensors(stored, model, card)
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
    model.load_state_dict(tensors, assign=True)
    model.language.tie_weights()


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no .safetensors file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors
