"""A float32 number as two halves: a bfloat16 number that stands for it, and the bits that it lost.

Ties are rounded away from zero, so that the two halves give the number back exactly; to the even neighbour, two
numbers would have the same halves.
"""

import torch
from torch import Tensor

HALF, MASK = 0x8000, 0xFFFF


def upper_half(exact: Tensor) -> Tensor:
    """float32 -> bfloat16, the nearest; any other type as it is."""
    if exact.dtype != torch.float32:
        return exact
    return ((exact.contiguous().view(torch.int32) + HALF) >> 16).to(torch.int16).view(torch.bfloat16)


def lower_half(exact: Tensor) -> Tensor:
    """The lower 16 bits of float32 numbers, as int16."""
    return (exact.contiguous().view(torch.int32) & MASK).to(torch.int16)


def whole(upper: Tensor, lower: Tensor) -> Tensor:
    """The float32 numbers that were taken apart; `upper` may be float32 again by now."""
    bits = lower.to(torch.int32) & MASK
    high = upper.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32) - (bits >= HALF).to(
        torch.int32
    )
    return ((high << 16) | bits).view(torch.float32)
