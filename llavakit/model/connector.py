"""Connectors: rows of the tower's width to rows of the decoder's width."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llavakit.core.errors import pick
from llavakit.model.settings import ConnectorConfig


class Standardize(nn.Module):
    """(x - mean) / std per channel, with statistics of the first training images, fixed from then on.

    Channels of a convolutional tower differ in size by orders of magnitude; a fresh connector learns several
    times faster when they do not.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(width))
        self.register_buffer("std_C", torch.ones(width))

    def fit(self, features_NRC: Tensor) -> None:
        """Take the statistics of these features."""
        rows_RC = features_NRC.flatten(0, -2).float()
        self.mean_C.copy_(rows_RC.mean(dim=0))
        self.std_C.copy_(rows_RC.std(dim=0) + 1e-5)

    def forward(self, rows_NRC: Tensor) -> Tensor:
        """[..., C] -> [..., C]"""
        return (rows_NRC - self.mean_C) / self.std_C


def _linear(width_in: int, width_out: int) -> dict[str, nn.Module]:
    """One linear map (LLaVA, arXiv 2304.08485)."""
    return {"linear_1": nn.Linear(width_in, width_out)}


def _mlp(width_in: int, width_out: int) -> dict[str, nn.Module]:
    """Linear, GELU, linear (LLaVA-1.5, arXiv 2310.03744: `mlp2x_gelu`)."""
    return {
        "linear_1": nn.Linear(width_in, width_out),
        "act": nn.GELU(),
        "linear_2": nn.Linear(width_out, width_out),
    }


CONNECTORS: dict[str, Callable[[int, int], dict[str, nn.Module]]] = {"linear": _linear, "mlp": _mlp}


def build_connector(config: ConnectorConfig, width_in: int, width_out: int) -> nn.Sequential:
    """A fresh connector, [..., width_in] -> [..., width_out], with PyTorch's default initialisation."""
    layers: dict[str, nn.Module] = {"standardize": Standardize(width_in)} if config.standardize else {}
    layers |= pick(CONNECTORS, config.kind, "connector.kind")(width_in, width_out)
    return nn.Sequential(OrderedDict(layers))


@torch.no_grad()
def match_scale(connector: nn.Sequential, target_std: float, width_in: int) -> None:
    """Scale the last layer so that rows of unit variance come out with `target_std`, around zero."""
    last = connector[-1]
    assert isinstance(last, nn.Linear)
    last.bias.zero_()
    last.weight.mul_(target_std / connector(torch.randn(256, width_in)).std())
