"""The processes that train one model together, as `torchrun` starts them: PyTorch's process groups.

A rank takes its share of the packed rows of every step; the gradient is the sum over ranks. So the number of ranks
changes how fast a step is, not what it computes. With one rank nothing here talks to anybody.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from llavakit.core.progress import console
from llavakit.train.settings import ParallelConfig


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """The one that writes what is written once."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of them share this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    def seed(self, seed: int) -> int:
        """A seed of this rank's own, made of the run's."""
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0] >> 1)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks; the same on all of them."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(table)
        return [float(value) for value in table.tolist()]

    def largest(self, values: Sequence[int]) -> list[int]:
        """Each value's maximum over the ranks."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(table, op=dist.ReduceOp.MAX)
        return [int(value) for value in table.tolist()]

    def highest(self, values: Sequence[float]) -> list[float]:
        """Each value's maximum over the ranks; the same on all of them."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(table, op=dist.ReduceOp.MAX)
        return [float(value) for value in table.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it is set on some rank."""
        return self.sums([flag]) != [0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sums([0.0])

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first rank does it, then the others do, and find what it left on the disk."""
        if not self.is_first:
            self.barrier()
        yield
        if self.is_first:
            self.barrier()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The ranks of a machine one after the other, so that only one at a time holds a whole model in memory."""
        mine = int(os.environ.get("LOCAL_RANK", "0"))
        for _ in range(mine):
            self.barrier()
        yield
        for _ in range(self.on_this_machine - mine):
            self.barrier()


ALONE = Ranks()


def tell_idle(rows: int, tokens: int, ranks: int) -> str:
    """`, 42 of 64 ranks idle` for steps of `rows` rows of `tokens`, and what would change it; empty if none is."""
    idle = -rows % ranks
    if not idle:
        return ""
    if rows < ranks:
        more = f"optim.rows={ranks} learns from more at once"
        return f", {idle} of {ranks} ranks idle: a step has {rows} rows ({more})"
    fewer = rows // ranks * ranks
    longer = -(-rows * tokens // fewer // 64) * 64  # as many tokens in a step
    return (
        f", {idle} of {ranks} ranks idle in the last of {-(-rows // ranks)} passes: a step has {rows} rows "
        f"(optim.rows={fewer} data.tokens={longer} leaves none idle)"
    )


@contextmanager
def join_ranks(config: ParallelConfig) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, or just this process. Only the first one speaks to the screen."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if size == 1:
        yield Ranks(device=device)
        return
    if cuda:
        torch.cuda.set_device(device)
    # What ranks tell each other is small and goes over gloo: it does not wait for the GPU, nor the GPU for it.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=config.timeout))
    try:
        console.quiet = dist.get_rank() > 0
        yield Ranks(dist.get_rank(), size, device)
    finally:
        console.quiet = False
        dist.destroy_process_group()
