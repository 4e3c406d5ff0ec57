"""AdamW with small moments: in bfloat16, four bytes a trained weight instead of eight, or in eight bits, two.

What is stored is rounded up or down at random, in proportion to the distance, so that it is right on average. To
the nearest, a second moment would stand still: a step moves it by a thousandth, and bfloat16 has steps of a 256th.
What is drawn follows from the step, the parameter and the first of its rows alone: ranks that hold the same weights
round alike, or their models would come apart, and a resumed run rounds as one that was not stopped.
Arithmetic is float32, a tensor after the other; a sharded one by the rows of each rank.
Shape letters: R rows (the first dimension), C numbers of a row, B blocks of a row, N numbers of a block.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from llavakit.model.rounding import round_at_random
from llavakit.train.settings import MomentFormat
from llavakit.train.sharding import first_row, local_shard, shaped_like

FIRST, SECOND = "exp_avg", "exp_avg_sq"
SCALE = "_scale"  # of a moment's name: the largest number of each block
BLOCK = 128  # numbers of a row that share one
RANGES = {
    FIRST: (0, 127, 2),
    SECOND: (1, 255, 4),
}  # lowest and highest code, and the power of it that is stored
State = dict[str, Tensor]


class Store(Protocol):
    """How a parameter's moments lie in the optimizer's state, in tensors with its rows."""

    def make(self, param: Tensor) -> State:
        """Moments of zero."""
        ...

    def read(self, state: State, name: str) -> Tensor:
        """float32, of this rank's rows."""
        ...

    def write(self, state: State, name: str, exact: Tensor, random: torch.Generator) -> None: ...


class SmallAdamW(AdamW):
    """Its moments are stored as the format says; those of vectors (norms, biases), which are few, in float32."""

    def __init__(self, params: object, format: MomentFormat, **settings: object) -> None:
        super().__init__(params, **settings)  # type: ignore[arg-type]
        self._matrices: Store = Bytes() if format == "int8" else Plain(torch.bfloat16)
        self._vectors: Store = Plain(torch.float32) if format == "int8" else self._matrices

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        number = 0
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group, number)
                number += 1

    def _update(self, param: Tensor, grad: Tensor, group: dict, number: int) -> None:
        state, store = self.state[param], self._matrices if param.ndim > 1 else self._vectors
        if not state:
            state |= {"step": torch.zeros(()), **store.make(param)}
        state["step"] += 1
        count, (decay_1, decay_2), rate = state["step"].item(), group["betas"], group["lr"]
        weight, slope = local_shard(param), local_shard(grad).float()
        first, second = (store.read(state, name) for name in (FIRST, SECOND))
        first.lerp_(slope, 1 - decay_1)
        second.mul_(decay_2).addcmul_(slope, slope, value=1 - decay_2)
        weight.mul_(1 - rate * group["weight_decay"])
        spread = second.sqrt().div_(math.sqrt(1 - decay_2**count)).add_(group["eps"])
        weight.addcdiv_(first, spread, value=-rate / (1 - decay_1**count))
        random = _generator(weight.device, int(count), number, first_row(param))
        store.write(state, FIRST, first, random)
        store.write(state, SECOND, second, random)


def _generator(device: torch.device, *place: int) -> torch.Generator:
    """Random numbers of one place."""
    seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed >> 1)


class Plain:
    """In a number format of PyTorch's."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def make(self, param: Tensor) -> State:
        return {name: torch.zeros_like(param, dtype=self._dtype) for name in (FIRST, SECOND)}

    def read(self, state: State, name: str) -> Tensor:
        return local_shard(state[name]).to(torch.float32, copy=True)

    def write(self, state: State, name: str, exact: Tensor, random: torch.Generator) -> None:
        rounded = exact if self._dtype == torch.float32 else round_at_random(exact, random)
        local_shard(state[name]).copy_(rounded)


class Bytes:
    """A byte a number, as a share of the largest in its block; close together near zero, where most numbers are.

    A first moment is the square of its code, with its sign; a second one the fourth power, as it is a square itself
    and spans as many orders again. A second one is never rounded to zero: a step divides by its root.
    """

    def make(self, param: Tensor) -> State:
        blocks = -(-math.prod(param.shape[1:]) // BLOCK)
        return {
            FIRST: torch.zeros_like(param, dtype=torch.int8),
            SECOND: torch.zeros_like(param, dtype=torch.uint8),
            **{name + SCALE: shaped_like(param, (blocks,), torch.float32) for name in (FIRST, SECOND)},
        }

    def read(self, state: State, name: str) -> Tensor:
        codes, most_RB = local_shard(state[name]), local_shard(state[name + SCALE])
        _, levels, power = RANGES[name]
        share_RBN = _in_blocks(codes).float().div_(levels)
        value_RBN = share_RBN.abs().pow_(power).copysign_(share_RBN).mul_(most_RB[..., None])
        return _out_of_blocks(value_RBN, codes)

    def write(self, state: State, name: str, exact: Tensor, random: torch.Generator) -> None:
        lowest, levels, power = RANGES[name]
        value_RBN = _in_blocks(exact)
        most_RB = value_RBN.abs().amax(2)
        share_RBN = value_RBN.abs() / most_RB.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        low = share_RBN.pow(1 / power).mul_(levels).floor_().clamp_(lowest, levels - 1)
        under, over = (low / levels).pow_(power), ((low + 1) / levels).pow_(power)
        chance = (share_RBN - under) / (over - under)
        code = low + (torch.rand(chance.shape, generator=random, device=chance.device) < chance)
        local_shard(state[name]).copy_(_out_of_blocks(code.copysign_(value_RBN), exact))
        local_shard(state[name + SCALE]).copy_(most_RB)


def _in_blocks(x: Tensor) -> Tensor:
    """[R, B, N], filled up with zeros; not the memory of x."""
    columns = math.prod(x.shape[1:])
    return F.pad(x.reshape(len(x), columns), (0, -columns % BLOCK)).reshape(
        len(x), -(-columns // BLOCK), BLOCK
    )


def _out_of_blocks(x_RBN: Tensor, like: Tensor) -> Tensor:
    """The same numbers as a tensor of this shape."""
    return x_RBN.flatten(1)[:, : math.prod(like.shape[1:])].reshape(like.shape)


def moment_bytes(format: MomentFormat, dimensions: int) -> float:
    """Of both moments of a number in a tensor of so many dimensions."""
    if format == "int8" and dimensions > 1:
        return 2 * (1 + 4 / BLOCK)
    return 4.0 if format == "bf16" else 8.0
