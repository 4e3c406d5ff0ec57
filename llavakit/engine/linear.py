"""Matrix products with fixed weights, each the fastest that PyTorch has for its device and number format.

Weight-only quantisation: int8 has a scale per output, int4 a scale and a zero point per group of inputs. The
activations are never quantised. Shape letters: T rows, I inputs, O outputs, N groups of inputs.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.core.errors import ConfigError

Format = Literal["as_is", "int8", "int4"]
GROUP = 32  # inputs that share a scale and a zero point in int4, as in the Q4_1 of GGUF files
UNPACKED = 8  # rows from which int8 weights are cheaper to turn into the activations' type first


class Linear:
    """`x @ weight.T + bias` as it is. The weights are given once and again by `load`, not trained.

    No module of PyTorch: a module's call costs a microsecond, and a token makes hundreds of them.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.bias_O: Tensor | None = None
        self.load(weight_OI, bias_O)

    def load(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        """Take new weights of the same shape and type."""
        self.bias_O = None if bias_O is None else bias_O.detach()
        self._pack(weight_OI.detach())

    def _pack(self, weight_OI: Tensor) -> None:
        self.weight_OI = weight_OI

    def __call__(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = F.linear(x_TI, self.weight_OI, self.bias_O)
        return y_TO

    def add(self, x_TI: Tensor, residual_TO: Tensor) -> Tensor:
        """The product added to `residual_TO`, which stays as it is."""
        y_TO: Tensor = self(x_TI)
        return y_TO.add_(residual_TO)


class PackedLinear(Linear):
    """bfloat16 on the CPU: the weights lie in oneDNN's blocked order, so no call has to reorder them.

    Half to two thirds of the time of F.linear for up to 64 rows, and the same numbers.
    """

    def _pack(self, weight_OI: Tensor) -> None:
        # The order does not depend on the number of rows that it is asked for; 1 serves them all.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), 1)

    def __call__(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self.packed, self.bias_O, "none", [], "")
        return y_TO

    def add(self, x_TI: Tensor, residual_TO: Tensor) -> Tensor:
        y_TO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_TI, residual_TO, self.packed, self.bias_O, "add"
        )
        return y_TO


class Int8Linear(Linear):
    """int8 weights with a scale per output."""

    def _pack(self, weight_OI: Tensor) -> None:
        self.quantized_OI, self.scale_O = quantize_int8(weight_OI)

    def __call__(self, x_TI: Tensor) -> Tensor:
        if len(x_TI) < UNPACKED:
            y_TO = torch._weight_int8pack_mm(x_TI, self.quantized_OI, self.scale_O)
        else:
            y_TO = F.linear(x_TI, self.quantized_OI.to(x_TI.dtype)).mul_(self.scale_O)
        return y_TO if self.bias_O is None else y_TO.add_(self.bias_O)


class Int4Linear(Linear):
    """int4 weights in groups of GROUP inputs."""

    def _pack(self, weight_OI: Tensor) -> None:
        self.outputs = len(weight_OI)
        # The kernels take outputs in sixteens; what is added is never read.
        codes_OI, scale_ON, zero_ON = quantize_int4(F.pad(weight_OI, (0, 0, 0, -self.outputs % 16)))
        self.scale_zero_NO2 = torch.stack((scale_ON, zero_ON), dim=-1).transpose(0, 1).contiguous()
        if weight_OI.is_cuda:
            self.packed = torch._convert_weight_to_int4pack(in_pairs(codes_OI), 2)
        else:
            self.packed = torch._convert_weight_to_int4pack_for_cpu(codes_OI, 2)

    def __call__(self, x_TI: Tensor) -> Tensor:
        multiply = torch._weight_int4pack_mm if x_TI.is_cuda else torch._weight_int4pack_mm_for_cpu
        y_TO = multiply(x_TI.contiguous(), self.packed, GROUP, self.scale_zero_NO2)[:, : self.outputs]
        return y_TO if self.bias_O is None else y_TO.add_(self.bias_O)


Make = Callable[[Tensor, Tensor | None], Linear]


def linear(weight_OI: Tensor, bias_O: Tensor | None = None, format: Format = "as_is") -> Linear:
    """The fastest product for these weights in this number format; ConfigError where there is none."""
    if format != "as_is":
        check_format(format, weight_OI.dtype, weight_OI.device)
        return PACKED[format](weight_OI, bias_O)
    packs = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.bfloat16
    if packs and torch.backends.mkldnn.is_available():
        return PackedLinear(weight_OI, bias_O)
    return Linear(weight_OI, bias_O)


PACKED: dict[str, type[Linear]] = {"int8": Int8Linear, "int4": Int4Linear}


@cache
def check_format(format: Format, dtype: torch.dtype, device: torch.device) -> None:
    """ConfigError where PyTorch's packed product does not run: found by trying, as cards and versions differ."""
    weight_OI, x_TI = (torch.zeros(rows, 64, dtype=dtype, device=device) for rows in (16, 1))
    try:
        PACKED[format](weight_OI)(x_TI)
    except (RuntimeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise ConfigError(
            f"weights={format}: PyTorch {torch.__version__} does not multiply {dtype} by it on {where} ({reason}); "
            "use weights=bf16 (on a GPU int4 needs a bfloat16 model and a card from Ampere on)"
        ) from None


def in_pairs(codes_OI: Tensor) -> Tensor:
    """uint8[O, I / 2] of codes 0..15: the first of two is the high half, as CUDA's packing takes them."""
    return (codes_OI[:, ::2] << 4 | codes_OI[:, 1::2]).to(torch.uint8)


def quantize_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [O, I], scale [O] in the weights' type): symmetric, the largest weight of an output is 127."""
    scale_O = (weight_OI.abs().amax(dim=1).float() / 127).clamp(min=1e-12).to(weight_OI.dtype)
    codes_OI = (weight_OI.float() / scale_O.float()[:, None]).round_().clamp_(-127, 127)
    return codes_OI.to(torch.int8).contiguous(), scale_O


def quantize_int4(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes 0..15 as int32 [O, I], scale [O, N], zero [O, N]): a weight is (code - 8) * scale + zero.

    Smallest and largest weight of a group are the ends of its range.
    """
    outputs, inputs = weight_OI.shape
    if inputs % GROUP:
        raise ConfigError(
            f"int4 needs products whose inputs are a multiple of {GROUP}, and this decoder has one with "
            f"{inputs}; use int8"
        )
    groups = weight_OI.float().view(outputs, -1, GROUP)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scale_ON = ((high - low) / 15).clamp(min=1e-12).to(weight_OI.dtype)
    zero_ON = (low.double() + 8 * scale_ON.double()).to(weight_OI.dtype)
    codes = (groups - zero_ON.float()[..., None]) / scale_ON.float()[..., None] + 8
    return codes.round_().clamp_(0, 15).int().view(outputs, inputs), scale_ON, zero_ON


def dequantize_int4(codes_OI: Tensor, scale_ON: Tensor, zero_ON: Tensor) -> Tensor:
    """The float32 weights that the codes stand for."""
    groups = codes_OI.view(len(codes_OI), -1, GROUP).float() - 8
    return (groups * scale_ON.float()[..., None] + zero_ON.float()[..., None]).view(codes_OI.shape)
