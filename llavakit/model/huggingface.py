"""A model's weights under the names of `transformers`."""

import torch
from torch import Tensor

from llavakit.model.card import Card
from llavakit.model.formats.keys import to_hf
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
