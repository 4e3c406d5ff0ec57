"""Connectors: rows of the tower's width to rows of the decoder's width."""

from typing import Literal

from torch import Tensor, nn

from llavakit.core.config import Config
from llavakit.core.errors import pick


class ConnectorConfig(Config):
    """`linear` is LLaVA's single matrix; `mlp` is LLaVA-1.5's two layers with an exact (erf) GELU between."""

    kind: Literal["linear", "mlp"] = "mlp"


class Linear(nn.Module):
    """One linear map (LLaVA, arXiv 2304.08485)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)

    def forward(self, rows_NRC: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]"""
        out: Tensor = self.linear_1(rows_NRC)
        return out


class Mlp(nn.Module):
    """Linear, GELU, linear (LLaVA-1.5, arXiv 2310.03744: `mlp2x_gelu`)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width_out, width_out)

    def forward(self, rows_NRC: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]"""
        out: Tensor = self.linear_2(self.act(self.linear_1(rows_NRC)))
        return out


CONNECTORS: dict[str, type[Linear] | type[Mlp]] = {"linear": Linear, "mlp": Mlp}


def build_connector(config: ConnectorConfig, width_in: int, width_out: int) -> nn.Module:
    """A fresh connector with PyTorch's default initialisation."""
    return pick(CONNECTORS, config.kind, "connector.kind")(width_in, width_out)
