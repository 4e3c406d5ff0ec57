"""The repeated blocks of a model: the unit of sharding, of activation checkpointing and of compiling."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from llavakit.core.errors import ConfigError
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.train.freezing import is_trained


def decoder_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """Those of the language model, in order."""
    return _marked_blocks(model.language)


def tower_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """Those that are computed. A convolutional tower has none: it stays whole."""
    if not isinstance(model.tower, ViTTower):
        return []
    return _marked_blocks(model.tower)[: model.tower.num_layers]


def trained_tower_blocks(model: Llava) -> list[GradientCheckpointingLayer]:
    """The same where the tower learns; a frozen one stays whole."""
    return tower_blocks(model) if is_trained(model.tower) else []


def _marked_blocks(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """What `transformers` marks as a block that can be recomputed."""
    found = [block for block in module.modules() if isinstance(block, GradientCheckpointingLayer)]
    if not found:
        raise ConfigError(
            f"{type(module).__name__} does not mark its blocks, so parallel.mode=fsdp, checkpointing "
            "and compile cannot be used with it"
        )
    return found
