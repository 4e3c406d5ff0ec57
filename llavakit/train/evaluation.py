"""Loss on held-out data while a run trains: the same rows in the same order every time."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice, takewhile

import torch

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import Batch
from llavakit.data.loader import Loader, Position
from llavakit.model.llava import Llava
from llavakit.train.balance import balance_batches
from llavakit.train.objectives import Objective, Tally, Totals, add_totals
from llavakit.train.precision import autocast
from llavakit.train.ranks import ALONE, Ranks
from llavakit.train.sharding import reshard


@torch.no_grad()
def evaluate(
    model: Llava,
    objective: Objective,
    loader: Loader,
    *,
    precision: str,
    rows: int | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """`eval_loss` and the objective's other figures, per unit of weight, over one pass or the first `rows` rows.

    The ranks share the rows, and all of them must call it. Neither weights nor random state change, and the model
    is left in the mode it came in.
    """
    tally, weights = Tally(), list[Totals]()
    training = model.training
    model.eval()
    for batches in _steps(loader, rows, ranks):
        for batch in balance_batches(batches, model, ranks, tile=loader.encoder.image.size):
            with autocast(model, precision):
                [batch] = objective.prepare(model, [batch], ALONE)
                found = objective.loss(model, batch.to(model.device))
            tally.add(found)
            weights.append(objective.weights(batch))
    reshard(model)
    model.train(training)
    totals = add_totals(weights, ranks)
    if not any(totals.values()) and ranks.any(bool(loader.bad)):
        first = next(iter(loader.bad), "other ranks read it")
        raise DataError(f"eval.files: nothing could be read; the first: {first}")
    if not any(totals.values()):
        raise ConfigError("eval.files: nothing there carries weight; look at `llavakit inspect`")
    return {f"eval_{name}": value for name, value in tally.figures(totals, ranks).items()}


def _steps(loader: Loader, rows: int | None, ranks: Ranks) -> Iterator[list[Batch]]:
    """What this rank takes of each next row per rank: one batch, or none where the rows end or cannot be read."""
    with closing(loader.batches(Position(), rank=ranks.rank, ranks=ranks.size, step=ranks.size)) as source:
        epoch = islice(takewhile(lambda pair: pair[1].epoch == 0, source), rows)
        while taken := list(islice(epoch, ranks.size)):
            yield [batch for batch, _ in taken if batch is not None]
