"""Numbers in bfloat16 that are right on average, where the nearest ones would lose every small change."""

import torch
from torch import Tensor

LOW = 16  # bits of a float32 that bfloat16 has not


def round_up_from(exact: Tensor, threshold: Tensor) -> Tensor:
    """float32 -> bfloat16, away from zero where what is lost and `threshold`, int32 below 2**16, reach a step."""
    bits = exact.contiguous().view(torch.int32) + threshold  # carries into the bits that stay
    return (bits & -(1 << LOW)).view(torch.float32).to(torch.bfloat16)


def round_at_random(exact: Tensor, random: torch.Generator) -> Tensor:
    """float32 -> bfloat16, away from zero with the probability of how far it is on the way there."""
    drawn = torch.randint(1 << LOW, exact.shape, generator=random, dtype=torch.int32, device=exact.device)
    return round_up_from(exact, drawn)


def add_fairly(weight_OI: Tensor, change_OI: Tensor) -> Tensor:
    """The sum of a weight and a float32 change, in the weight's type.

    Rounded to the nearest bfloat16 a change of less than half a step of its weight is gone, and most of a young
    adapter's are. Here a sum between two steps becomes the upper or the lower one in proportion, so that sums over
    many weights are right; which one is fixed by the place in the matrix, so that the same sum is always the same.
    """
    total_OI = weight_OI + change_OI  # float32
    if weight_OI.dtype != torch.bfloat16:
        return total_OI
    fixed = torch.Generator().manual_seed(0)
    rows_O1, columns_1I = (
        torch.randint(1 << LOW, shape, generator=fixed, dtype=torch.int32).to(weight_OI.device)
        for shape in ((len(weight_OI), 1), (1, weight_OI.shape[1]))
    )
    return round_up_from(total_OI, (rows_O1 + columns_1I) & ((1 << LOW) - 1))
