"""A running average of the trained weights (EMA), in float32, off unless `optim.ema` is set.

The averages live in the optimizer's state, under its parameters, so they are saved, resumed and sharded over ranks
as its moments are. The checkpoint's weights stay the trained ones, from which a run goes on exactly; the
averaged model stands beside them as a checkpoint of its own, `step000123/ema`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

KEY = "ema"
FOLDER = "ema"  # in a checkpoint


@torch.no_grad()
def update_average(optimizer: Optimizer, decay: float) -> None:
    """Move every average towards its weight: average = decay x average + (1 - decay) x weight.

    Call it after `optimizer.step()`. It begins as a copy when its weight has been changed for the first time.
    """
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state.get(param)
            if not state:  # nothing has reached it yet; AdamW wants an empty state to begin with
                continue
            if KEY in state:
                state[KEY].lerp_(param.float(), 1 - decay)
            else:
                state[KEY] = param.detach().float().clone()


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Inside, weights are their averages; afterwards they are what they were, bit for bit.

    They change places one by one, so that nobody holds the model a third time.
    """
    pairs = [
        (param, optimizer.state[param])
        for group in optimizer.param_groups
        for param in group["params"]
        if KEY in optimizer.state.get(param, {})
    ]
    with torch.no_grad():
        kept = [_put_in_place(param, state) for param, state in pairs]
    try:
        yield
    finally:
        with torch.no_grad():
            for (param, state), average in zip(pairs, kept, strict=True):
                weight = state[KEY].to(param.dtype, copy=True)
                state[KEY].copy_(param if average is None else average)
                param.copy_(weight)


def _put_in_place(param: Tensor, state: dict[str, Tensor]) -> Tensor | None:
    """Exchange a weight and its average; returns the average where the weight's type would round it."""
    average = state[KEY].clone()
    state[KEY].copy_(param)
    param.copy_(average)
    return None if param.dtype == average.dtype else average
