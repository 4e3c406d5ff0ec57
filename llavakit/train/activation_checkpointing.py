"""Activation checkpointing: the backward pass recomputes what happens inside a block instead of keeping it."""

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llavakit.model.llava import Llava
from llavakit.train.blocks import decoder_blocks, trained_tower_blocks


def checkpoint_activations(model: Llava) -> None:
    """Keep only what goes into the blocks of the decoder and of a trained tower; the backward pass recomputes."""
    block: Any  # transformers leaves these two without types
    for block in (*trained_tower_blocks(model), *decoder_blocks(model)):
        # Their own switch for this has another name in every other version of transformers.
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def recomputes(model: Llava) -> bool:
    """Whether the decoder's blocks do."""
    return any(
        isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        for module in model.language.modules()
    )
