"""Blocks of decoder and tower as PyTorch's compiler makes them, region by region (`compile: true`).

Regions are what a block computes before its attention (norm, queries, keys, rotation) and behind it (output matrix,
norm, MLP). Attention stays outside: what a row's layout computes depends on its segments, which would be another
graph for every row, and its kernels are fused already. Sizes are symbols, so rows of all lengths run the same
graphs, and blocks of a class share them. What turns logits into the loss of SFT and its gradient is compiled too.
"""

import inspect
from collections.abc import Callable
from functools import partial
from statistics import median
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.model.attention import NAME, registered_attention
from llavakit.model.llava import Llava
from llavakit.train.blocks import decoder_blocks, tower_blocks

BACKEND = "inductor"
PLAIN = 4  # steps of a fresh run that are not compiled: the first warms up, the others are compared with
WARM = 2  # compiled steps after that which are not counted: graphs for what the first did not show
COUNTED = 3  # steps whose median counts, before and after
# Graphs of one region, beyond which it is not compiled. PPO's roles on one base, each with gradients and
# without, for rows of one sequence and of several, are more than PyTorch's own 8.
GRAPHS = 64


def compile_blocks(model: Llava) -> None:
    """Compile the blocks in place, recomputed ones too; the compiler works when they are called for the first time.

    Hooks of modules stay outside, those of sharding too. A convolutional tower has no blocks and stays as it is.
    """
    model.compiler = BACKEND
    AttentionInterface.register(NAME, torch.compiler.disable(registered_attention))
    torch._dynamo.config.recompile_limit = GRAPHS
    block: Any  # what is set on it has no declared type
    for block in (*tower_blocks(model), *decoder_blocks(model)):
        # The class's own forward: `transformers` wraps it in its checkpoint, which keeps the compiler out.
        plain = MethodType(inspect.unwrap(type(block).forward), block)
        compiled: Callable[..., Any] = torch.compile(plain, dynamic=True, backend=BACKEND)
        if block.gradient_checkpointing:
            compiled = partial(checkpoint, compiled, use_reentrant=False)
            block.gradient_checkpointing = False  # not twice, where it is the call that `transformers` wraps
        block.forward = compiled


def try_compiler(device: torch.device) -> None:
    """ConfigError where the compiler cannot work, as without a C++ compiler (CPU) or Triton (CUDA)."""
    try:
        torch.compile(torch.sin, backend=BACKEND)(torch.zeros(8, device=device))
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise ConfigError(
            f"compile: PyTorch's compiler does not work here ({reason}); leave it out"
        ) from None


class Step(NamedTuple):
    """What a step took, over all ranks."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Compiler:
    """Compiles a run's blocks in its fifth step, and says once what that took and what steps gain by it.

    Which steps are compiled depends on their number alone: a run that goes on computes what it would have computed.
    """

    def __init__(self, model: Llava, done: int) -> None:
        """`done` steps are behind a resumed run, which has nothing to compare with from the fifth on."""
        try_compiler(model.device)
        self._model, self._first = model, max(done, PLAIN)
        self._plain, self._compiled = list[Step](), list[Step]()

    def before(self, step: int) -> None:
        """Step number `step` is about to be computed, counted from 0."""
        if step == self._first:
            compile_blocks(self._model)

    def after(self, step: int, tokens: int, seconds: float) -> None:
        """It has been."""
        if step < self._first:
            self._plain.append(Step(tokens, seconds))
        elif len(self._compiled) < WARM + COUNTED:
            self._compiled.append(Step(tokens, seconds))
            if len(self._compiled) == WARM + COUNTED:
                self._tell()

    def _tell(self) -> None:
        warm, counted = self._compiled[:WARM], self._compiled[WARM:]
        rate = median(step.rate for step in counted)
        spent = sum(step.seconds - step.tokens / rate for step in warm)
        before = [step.rate for step in self._plain[-COUNTED:]]
        gain = f", {rate / median(before):.2f} times as many as before" if before else ""
        say(f"compile: blocks are compiled ({max(spent, 0):,.0f} s); {rate:,.0f} tokens/s{gain}")
