"""Weights under the names of `transformers`: those we write, and every spelling that we read."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llavakit.core.errors import CheckpointError
from llavakit.model.card import Card
from llavakit.model.llava import MARKS, Llava

# Buffers that older versions stored; all are made from the config.
BUFFERS = (".position_ids", ".rotary_emb.inv_freq")


def hf_tensors(model: Llava, card: Card) -> dict[str, Tensor]:
    """All weights under the names of the released hub files."""
    out: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "tower":
            out["vision_tower.vision_model." + rest.removeprefix("vision.")] = tensor
        elif part == "connector":
            out["multi_modal_projector." + rest] = tensor
        elif part == "newline":
            out[rest] = tensor
        elif not (rest == "lm_head.weight" and model.language.config.tie_word_embeddings):
            out["language_model." + rest] = tensor
    if card.connector.kind == "linear":
        weight = out["multi_modal_projector.linear_1.weight"]
        out["multi_modal_projector.linear_2.weight"] = torch.eye(len(weight), dtype=weight.dtype)
        out["multi_modal_projector.linear_2.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    return {key: tensor.detach().cpu() for key, tensor in out.items()}


def our_tensors(stored: dict[str, Tensor], language: PreTrainedModel, card: Card) -> dict[str, Tensor]:
    """Stored tensors under our names, from any spelling that `transformers` has written for LLaVA."""
    tensors = {_our_key(key, language): tensor for key, tensor in stored.items() if not key.endswith(BUFFERS)}
    config: Any = language.config
    if config.tie_word_embeddings and "language.model.embed_tokens.weight" in tensors:
        tensors.setdefault("language.lm_head.weight", tensors["language.model.embed_tokens.weight"])
    if card.connector.kind == "linear":
        weight = tensors.pop("connector.linear_2.weight", None)
        bias = tensors.pop("connector.linear_2.bias", None)
        if weight is not None and not weight.equal(torch.eye(len(weight), dtype=weight.dtype)):
            raise CheckpointError("connector.kind is linear, but the stored second layer is not an identity")
        if bias is not None and bias.any():
            raise CheckpointError("connector.kind is linear, but the stored second layer has a bias")
    return tensors


def _our_key(key: str, language: PreTrainedModel) -> str:
    """Our name for a stored tensor, from any spelling that `transformers` has written for LLaVA."""
    direct = key.removeprefix("language_model.")
    if direct != key and direct.partition(".")[0] in dict(language.named_children()):
        return "language." + direct
    key = key.removeprefix("model.")
    if key.startswith("vision_tower."):
        rest = key.removeprefix("vision_tower.").removeprefix("vision_model.")
        return "tower." + (rest if rest.startswith("net.") else "vision." + rest)
    if key.startswith("multi_modal_projector."):
        return "connector." + key.removeprefix("multi_modal_projector.")
    if key in MARKS:
        return "newline." + key
    if key == "lm_head.weight":
        return "language.lm_head.weight"
    return f"language.{language.base_model_prefix}." + key.removeprefix("language_model.")
