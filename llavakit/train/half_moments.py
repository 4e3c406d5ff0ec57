"""AdamW with both moments in bfloat16: four bytes a trained weight instead of eight.

What is stored is rounded up or down at random, in proportion to the distance, so that it is right on average. To
the nearest, a second moment would stand still: a step moves it by a thousandth, and bfloat16 has steps of a 256th.
"""

import math

import torch
from torch import Tensor
from torch.optim import AdamW

from llavakit.train.sharding import local_shard


class HalfAdamW(AdamW):
    """Arithmetic is float32, a tensor after the other; a sharded one by the rows of each rank."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)

    def _update(self, param: Tensor, grad: Tensor, group: dict) -> None:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(param, dtype=torch.bfloat16)
        state["step"] += 1
        count, (decay_1, decay_2), rate = state["step"].item(), group["betas"], group["lr"]
        stored = [local_shard(state[name]) for name in ("exp_avg", "exp_avg_sq")]
        weight, slope = local_shard(param), local_shard(grad).float()
        first, second = (moment.float() for moment in stored)
        first.lerp_(slope, 1 - decay_1)
        second.mul_(decay_2).addcmul_(slope, slope, value=1 - decay_2)
        weight.mul_(1 - rate * group["weight_decay"])
        spread = second.sqrt().div_(math.sqrt(1 - decay_2**count)).add_(group["eps"])
        weight.addcdiv_(first, spread, value=-rate / (1 - decay_1**count))
        for moment, exact in zip(stored, (first, second), strict=True):
            moment.copy_(round_at_random(exact))


def round_at_random(exact: Tensor) -> Tensor:
    """float32 -> bfloat16, up with the probability of how far it is on the way there."""
    bits = exact.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 2**16)  # of what bfloat16 has no room for
    return ((bits + noise) & -(2**16)).view(torch.float32).to(torch.bfloat16)
