"""Parameters by arithmetic against the real modules, built without memory on PyTorch's meta device."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from llavakit.model.connector import build_connector
from llavakit.model.counts import count_connector, count_language, count_parameters, count_vision
from llavakit.model.families import FAMILIES
from llavakit.model.llava import Newline
from llavakit.model.settings import ConnectorConfig
from llavakit.model.tower import VISION_CONFIGS, VISION_MODELS

# The sum over layers is a product: three layers of each decoder and tower tell as much as all of them.
DECODERS = {replace(row.decoder, num_hidden_layers=3) for row in FAMILIES.values()}
TOWERS = {replace(row.vision, num_hidden_layers=3, head=head) for row in FAMILIES.values()
          for head in ((False, True) if row.vision.model_type == "siglip_vision_model" else (None,))}  # fmt: skip


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())  # tied weights are one parameter


@pytest.mark.parametrize("decoder", sorted(DECODERS, key=str), ids=lambda decoder: decoder.path)
def test_decoders(decoder):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**decoder.config()))
    assert count_language(decoder) == size(model)


@pytest.mark.parametrize("vision", sorted(TOWERS, key=str), ids=lambda vision: f"{vision.path} {vision.head}")
def test_towers(vision):
    with torch.device("meta"):
        model = VISION_MODELS[vision.model_type](VISION_CONFIGS[vision.model_type](**vision.config()))
    assert count_vision(vision) == size(model)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_connectors_and_rows_between_tokens(kind):
    config = ConnectorConfig(kind=kind)
    assert count_connector(config, 24, 40) == size(build_connector(config, 24, 40))
    for row in FAMILIES.values():
        width = row.decoder.hidden_size
        language = count_parameters(row).language
        assert language == count_language(row.decoder) + size(Newline(row.card.separators, width))
