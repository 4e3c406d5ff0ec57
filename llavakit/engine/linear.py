"""Matrix products with fixed weights, each the fastest that PyTorch has for its device and number format.

Shape letters: T rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """`x @ weight.T + bias` as it is. The weights are given once and again by `load`, not trained."""

    weight_OI: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.load(weight_OI, bias_O)

    def load(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        """Take new weights of the same shape and type."""
        self.weight_OI = weight_OI.detach()
        self.bias_O = None if bias_O is None else bias_O.detach()

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = F.linear(x_TI, self.weight_OI, self.bias_O)
        return y_TO

    def add(self, x_TI: Tensor, residual_TO: Tensor) -> Tensor:
        """The product added to `residual_TO`, which stays as it is."""
        y_TO: Tensor = self(x_TI)
        return y_TO.add_(residual_TO)


class PackedLinear(Linear):
    """bfloat16 on the CPU: the weights lie in oneDNN's blocked order, so no call has to reorder them.

    Half to a third of the time of F.linear for up to 64 rows, and never slower (docs/performance.md).
    """

    def load(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        # The order does not depend on the number of rows that it is asked for; 1 serves them all.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), 1)
        self.bias_O = None if bias_O is None else bias_O.detach()

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self.packed, self.bias_O, "none", [], "")
        return y_TO

    def add(self, x_TI: Tensor, residual_TO: Tensor) -> Tensor:
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_TI, residual_TO, self.packed, self.bias_O, "add"
        )
        return y_TO


def linear(weight_OI: Tensor, bias_O: Tensor | None = None) -> Linear:
    """The fastest exact product for the weights as they are."""
    packs = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.bfloat16
    if packs and torch.backends.mkldnn.is_available():
        return PackedLinear(weight_OI, bias_O)
    return Linear(weight_OI, bias_O)
