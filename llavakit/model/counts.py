"""How many parameters a released model has: its real modules, built without memory on PyTorch's meta device."""

from functools import cache
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from llavakit.model.connector import ConnectorConfig, build_connector
from llavakit.model.families.parts import Decoder
from llavakit.model.families.row import Family
from llavakit.model.formats.towers import Vision
from llavakit.model.llava import Newline
from llavakit.model.tower import VISION_CONFIGS, VISION_MODELS


class Counts(NamedTuple):
    """Parameters. `vision` is the whole tower of a released checkpoint, also the layers behind the features.

    The rows between image tokens (newline, faster token) count as `language`: released training gave them its rate.
    """

    vision: int
    connector: int
    language: int

    @property
    def total(self) -> int:
        return sum(self)


def count_parameters(family: Family) -> Counts:
    """The counts of a row, with the decoder's own vocabulary; a checkpoint may have some rows more."""
    width = family.decoder.hidden_size
    return Counts(
        vision=_vision(family.vision),
        connector=_connector(family.card.connector, family.vision.hidden_size, width),
        language=_language(family.decoder) + _size(Newline(family.card.separators, width)),
    )


# Rows share parts, so each distinct part is built once.


@cache
def _vision(vision: Vision) -> int:
    config = VISION_CONFIGS[vision.model_type](**vision.config())
    with torch.device("meta"):
        return _size(VISION_MODELS[vision.model_type](config))


@cache
def _connector(config: ConnectorConfig, width_in: int, width_out: int) -> int:
    with torch.device("meta"):
        return _size(build_connector(config, width_in, width_out))


@cache
def _language(decoder: Decoder) -> int:
    with torch.device("meta"):
        return _size(AutoModelForCausalLM.from_config(AutoConfig.for_model(**decoder.config())))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())  # tied weights are one parameter
