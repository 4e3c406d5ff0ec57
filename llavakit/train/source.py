"""Where the batches of a run's steps come from: files (here), or what the model itself answers (llavakit/align)."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from llavakit.core.types import Batch
from llavakit.data.loader import Loader, Position
from llavakit.model.checkpoint import Checkpoint
from llavakit.train.metrics import Row
from llavakit.train.objectives import Objective
from llavakit.train.ranks import Ranks
from llavakit.train.reference import CopiedReference
from llavakit.train.run import Run
from llavakit.train.state import Round, State


@dataclass(frozen=True)
class Step:
    """What one optimizer step learns from, on one rank."""

    batches: list[Batch]  # empty: this rank could read none of it
    position: Position  # after the step
    round: Round | None = None  # where a source of rollouts stands after the step
    figures: Row = field(default_factory=dict)  # what else the metrics shall tell


class Source(Protocol):
    """The steps of a run, as a function of where its state stands."""

    def steps(self, state: State) -> Generator[Step]:
        """The steps behind `state`, for ever. Each is asked for when the model has learned from those before."""
        ...

    def hear(self, row: Row) -> None:
        """What a step gave, as the metrics tell it; on every rank."""
        ...

    def num_steps(self, epochs: float) -> int:
        """Steps that so many passes over the data make; every rank asks."""
        ...

    def keep(self, folder: Path) -> None:
        """Write what the source has learned beside the model into a checkpoint's folder; the first rank asks."""
        ...

    def draw(self, rows: Sequence[Row], folder: Path) -> None:
        """Pictures for people, of the run's metrics so far; the first rank asks."""
        ...


class Files:
    """Packed rows of data files, `rows` of them a step, dealt out to the ranks."""

    def __init__(self, loader: Loader, rows: int, ranks: Ranks) -> None:
        self.loader, self.rows, self.ranks = loader, rows, ranks

    def steps(self, state: State) -> Generator[Step]:
        ranks = self.ranks
        rows = self.loader.batches(state.position, rank=ranks.rank, ranks=ranks.size, step=self.rows)
        with closing(rows) as source:
            while True:
                taken = list(islice(source, self.rows))
                yield Step([batch for batch, _ in taken if batch is not None], taken[-1][1])

    def hear(self, row: Row) -> None:
        """Nothing: what comes next depends on nothing that was learned."""

    def num_steps(self, epochs: float) -> int:
        """Every rank packs the same rows: from noted lengths, where there are several."""
        rows = self.loader.num_rows()
        return max(1, int(epochs * rows / self.rows))

    def keep(self, folder: Path) -> None:
        """Nothing: a position in the files is all there is."""

    def draw(self, rows: Sequence[Row], folder: Path) -> None:
        """Nothing: the loss has its curves."""


class OpenPolicy(Protocol):
    """What makes a run learn from the model's own answers. Sampling belongs to a higher level: it is handed in."""

    def __call__(
        self,
        run: Run,
        checkpoint: Checkpoint,
        loader: Loader,
        reference: CopiedReference | None,
        newest: Path | None,
        ranks: Ranks,
    ) -> tuple[Objective, Source]:
        """Loss and source of a run with `policy`, whose prompts `loader` reads. May add to what the model learns.

        `newest` is the checkpoint that the run goes on from. `reference` is there if the settings ask for one.
        """
        ...
