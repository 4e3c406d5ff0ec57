"""How many rows products in bfloat16 like on a CPU: 1,681 of them take longer than 1,696."""

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.core.types import Segment

EVEN = 32  # rows; docs/performance.md


def idle_rows(rows: int, device: torch.device) -> int:
    """How many to add to `rows`, so that what autocast makes of their products is fast here; of none, none."""
    return -rows % EVEN if device.type == "cpu" and torch.is_autocast_enabled("cpu") else 0


def add_idle(
    x_TD: Tensor, positions_T: Tensor, segments: tuple[Segment, ...]
) -> tuple[Tensor, Tensor, tuple[Segment, ...]]:
    """A packed row with idle tokens behind it: zeros, in a segment of their own that nobody sees."""
    tokens, idle = len(x_TD), idle_rows(len(x_TD), x_TD.device)
    if not idle:
        return x_TD, positions_T, segments
    alone = Segment(tokens, tokens + idle)
    return F.pad(x_TD, (0, 0, 0, idle)), F.pad(positions_T, (0, idle)), (*segments, alone)
