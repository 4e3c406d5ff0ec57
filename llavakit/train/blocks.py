"""The repeated blocks of a model: the unit of sharding and of activation checkpointing."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from llavakit.core.errors import ConfigError
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.train.freezing import is_trained


def decoder_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """Those of the language model, in order."""
    return _marked_blocks(model.language)


def trained_tower_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """Those that are computed. A frozen tower and a convolutional one have none: they stay whole."""
    if not isinstance(model.tower, ViTTower) or not is_trained(model.tower):
        return []
    return _marked_blocks(model.tower)[: model.tower.num_layers]


def _marked_blocks(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """What `transformers` marks as a block that can be recomputed."""
    found = [block for block in module.modules() if isinstance(block, GradientCheckpointingLayer)]
    if not found:
        raise ConfigError(
            f"{type(module).__name__} does not mark its blocks, so parallel.mode=fsdp and checkpointing "
            "cannot be used with it"
        )
    return found
