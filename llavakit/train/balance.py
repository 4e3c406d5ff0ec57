"""Balance: ranks whose rows differ make the same number of passes through every part of a step."""

from dataclasses import replace

import torch

from llavakit.core.types import Batch, Segment
from llavakit.model.llava import Llava
from llavakit.train.freezing import is_trained
from llavakit.train.ranks import Ranks
from llavakit.train.sharding import is_sharded


def balance_batches(batches: list[Batch], model: Llava, ranks: Ranks, *, tile: int) -> list[Batch]:
    """Batches that keep this rank in step with the others through a step.

    FSDP's ranks meet at every block, so all must make the same number of passes through each: rows of weight
    zero fill up, and a row whose pictures need fewer tower calls than another rank's gets black ones of
    `tile` pixels, which nothing gathers.
    """
    if ranks.size == 1:
        return batches
    [most] = ranks.largest([max(1, len(batches))])
    batches = batches + [idle_batch()] * (most - len(batches))
    if not is_sharded(model):
        return batches
    calls = ranks.largest([len(batch.pixels) for batch in batches])
    return [_using_all_parts(batch, model, count, tile) for batch, count in zip(batches, calls, strict=True)]


def idle_batch() -> Batch:
    """One token, nothing to learn."""
    none = torch.empty(0, dtype=torch.long)
    token = torch.zeros(1, dtype=torch.long)
    return Batch(token, token, (Segment(0, 1),), none, none, torch.empty(0))


def _using_all_parts(batch: Batch, model: Llava, calls: int, tile: int) -> Batch:
    """The batch, with something for the connector, and for a trained tower `calls` calls."""
    if is_trained(model.tower):
        black = torch.zeros(1, tile, tile, 3, dtype=torch.uint8)
        missing = max(calls, 1) - len(batch.pixels)
        return replace(batch, pixels=batch.pixels + (black,) * missing, use_all_parts=True)
    if batch.features_RC is None and not batch.pixels:
        return replace(batch, features_RC=torch.zeros(1, model.tower.width), use_all_parts=True)
    return replace(batch, use_all_parts=True)
