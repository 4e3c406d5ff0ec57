"""Weights under the names of `transformers`: those we write, and every spelling that we read."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llavakit.core.errors import CheckpointError
from llavakit.model.card import Card
from llavakit.model.formats.keys import BUFFERS, from_hf, to_hf
from llavakit.model.llava import Llava


def hf_tensors(model: Llava, card: Card) -> dict[str, Tensor]:
    """All weights under the names of the released hub files, wherever they lie (a sharded one stays sharded)."""
    out: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        if not (key == "language.lm_head.weight" and model.language.config.tie_word_embeddings):
            out[to_hf(key)] = tensor
    if card.connector.kind == "linear":
        weight = out["multi_modal_projector.linear_1.weight"]
        out["multi_modal_projector.linear_2.weight"] = torch.eye(len(weight), dtype=weight.dtype)
        out["multi_modal_projector.linear_2.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    return {key: tensor.detach() for key, tensor in out.items()}


def our_tensors(stored: dict[str, Tensor], language: PreTrainedModel, card: Card) -> dict[str, Tensor]:
    """Stored tensors under our names, from any spelling that `transformers` has written for LLaVA."""
    base, children = language.base_model_prefix, frozenset(name for name, _ in language.named_children())
    tensors = {
        from_hf(key, base=base, children=children): tensor
        for key, tensor in stored.items()
        if not key.endswith(BUFFERS)
    }
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
