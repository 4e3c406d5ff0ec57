"""Sums in bfloat16 that lose nothing on average."""

import torch
from torch import Tensor

LOW = 16  # bits of a float32 that bfloat16 has not


def add_fairly(weight_OI: Tensor, change_OI: Tensor) -> Tensor:
    """The sum of a weight and a float32 change, in the weight's type.

    Rounded to the nearest bfloat16 a change of less than half a step of its weight is gone, and most of a young
    adapter's are. Here a sum between two steps becomes the upper or the lower one in proportion, so that sums over
    many weights are right; which one is fixed by the place in the matrix, so that the same sum is always the same.
    """
    if weight_OI.dtype != torch.bfloat16:
        return weight_OI + change_OI
    fixed = torch.Generator().manual_seed(0)
    rows_O1, columns_1I = (
        torch.randint(1 << LOW, shape, generator=fixed, dtype=torch.int32).to(weight_OI.device)
        for shape in ((len(weight_OI), 1), (1, weight_OI.shape[1]))
    )
    threshold_OI = (rows_O1 + columns_1I) & ((1 << LOW) - 1)
    bits_OI = (weight_OI + change_OI).view(torch.int32) + threshold_OI  # carries into the bits that stay
    return (bits_OI & -(1 << LOW)).view(torch.float32).to(torch.bfloat16)
