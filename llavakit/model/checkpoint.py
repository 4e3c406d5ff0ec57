"""The directory a model lives in: a `transformers` model directory with a `llavakit` section in its config.json.

Where a Hugging Face class can express the model (a CLIP or SigLIP tower), config and key names are those of
`LlavaForConditionalGeneration`, in the spelling of the released hub files, which every version reads. A linear
connector is written as its exact equal in that class: an identity second layer with a linear activation. A
convolutional tower (or a standardizing connector) has no such class: the directory then says model_type
`llavakit` and loads only here. Weights are safetensors only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llavakit.core.errors import CheckpointError
from llavakit.core.files import atomic_directory
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


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the directory, all or nothing."""
    with atomic_directory(path) as draft:
        write(checkpoint, draft)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write model, settings, tokenizer and processor into an existing folder."""
    write_settings(checkpoint, folder)
    save_torch_state_dict(hf_tensors(checkpoint.model, checkpoint.card), folder, metadata={"format": "pt"})


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """All files of the directory but the weights."""
    model, card = checkpoint.model, checkpoint.card
    files = {
        "config.json": hf_config(model, card, checkpoint.tokenizer.image_token_id),
        "generation_config.json": {
            "eos_token_id": sorted(checkpoint.tokenizer.stop_ids(template(card.template)))
        },
        **processor_files(model, card),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    checkpoint.tokenizer.hf.save_pretrained(folder)


def load(path: Path, *, template_name: str | None = None, dtype: torch.dtype | None = None) -> Checkpoint:
    """A checkpoint written by `save`, or a Hugging Face LLaVA directory (then `template_name` is needed to talk).

    Weights keep the type they are stored in unless `dtype` says otherwise.
    """
    folder = resolve(path)
    config = read_json(folder / "config.json")
    card = load_card(folder, template_name)
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
