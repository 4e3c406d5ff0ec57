"""Freezing: which parts of a model learn, and whether one does."""

import torch
from torch import nn

from llavakit.core.errors import ConfigError
from llavakit.model.adapters import Adapter, learn_adapters_only
from llavakit.model.llava import PARTS, Llava


def train_only(
    model: Llava, parts: tuple[str, ...], *, embeddings: bool = True, adapter: Adapter | None = None
) -> None:
    """Freeze everything else; without `embeddings` also the decoder's token tables.

    In a part that has adapters only those learn. Any other part must be one that an adapter directory carries.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise ConfigError(f"train={list(parts)}: name at least one of {', '.join(PARTS)}")
    adapted = () if adapter is None else adapter.lora.parts
    if adapter is not None and set(parts) & {"language", "tower"} != set(adapted):
        raise ConfigError(
            f"train={list(parts)}, but model.lora puts adapters into {' and '.join(adapted)}: train these, "
            "and of tower and language model no other (adapters for the tower: model.lora.tower=true)"
        )
    for name in PARTS:
        if name in adapted:
            learn_adapters_only(model.part(name))
        else:
            model.part(name).requires_grad_(name in parts)
    if not embeddings:
        for table in (model.language.get_input_embeddings(), model.language.get_output_embeddings()):
            assert table is not None
            table.requires_grad_(False)
    if not is_trained(model):
        able = [name for name in PARTS if any(True for _ in model.part(name).parameters())]
        raise ConfigError(
            f"train={list(parts)}: nothing would learn, as this model has no weights there; "
            f"its parts are {', '.join(able)}"
        )


def halve_frozen(model: Llava) -> None:
    """Hold the decoder's matrices that do not learn in bfloat16: half the memory, and no copies in a step.

    Autocast rounds them so for every product anyway: not one result changes. Only for a run with adapters, which
    never writes these weights. Norms and token embeddings, which are no factors of products, stay as they are, and
    so do the tower, whose kept features are float32's, and a head that is the table of embeddings.
    """
    table = model.language.get_input_embeddings()
    assert table is not None
    for module in model.language.modules():
        if type(module) is nn.Linear and not is_trained(module) and module.weight is not table.weight:
            module.to(torch.bfloat16)


def is_trained(module: nn.Module) -> bool:
    """Whether anything in it learns."""
    return any(param.requires_grad for param in module.parameters())
