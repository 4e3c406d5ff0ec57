"""Packing: samples into rows of a token budget, rows into batches. No padding, ever."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llavakit.core.types import IMAGE_ID, Batch, Segment, segment_positions
from llavakit.data.encode import Sample


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit-decreasing: indices of samples per row, each row at most `budget` tokens.

    The longest samples are placed first, each into the first row with room. Order of equals is kept, so the
    result is a function of the lengths alone. A sample longer than the budget is the caller's error.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fits = next((row for row, left in enumerate(room) if left >= lengths[index]), None)
        if fits is None:
            rows.append([])
            room.append(budget)
            fits = len(rows) - 1
        rows[fits].append(index)
        room[fits] -= lengths[index]
    return rows


def collate(
    samples: Sequence[Sample],
    *,
    pixels_NHWC: Tensor | None = None,
    features_NRC: Tensor | None = None,
    learn: bool = True,
) -> Batch:
    """One packed row. `pixels_NHWC` (or `features_NRC`) holds the tiles of all samples' images, in order.

    With `learn`, the last token of every leaf is left out of the row: it is a label, and nothing looks at it.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    predictions: list[tuple[int, int, float]] = []
    rows: list[int] = []
    num_tiles = 0
    for sample in samples:
        first, leaves = len(segments), set(sample.leaves)
        place = segment_positions(sample.segments)
        for segment in sample.segments:
            start = len(ids)
            parent = None if segment.parent is None else first + segment.parent
            predictions += _predictions(
                sample, segment, start, None if parent is None else segments[parent].end - 1
            )
            stop = segment.end - 1 if learn and segment in leaves else segment.end
            ids += sample.ids[segment.start : stop]
            positions += place[segment.start : stop]
            segments.append(Segment(start, len(ids), parent))
        for media in sample.media:
            rows += [num_tiles * media.plan.tile_rows + row for row in media.plan.rows]
            num_tiles += media.plan.num_tiles
    tiles = pixels_NHWC if features_NRC is None else features_NRC
    if num_tiles != (0 if tiles is None else len(tiles)):
        raise ValueError(f"{num_tiles} tile(s) planned, {0 if tiles is None else len(tiles)} given")
    ids_T = torch.tensor(ids)
    predict, labels, weights = zip(*predictions, strict=True) if predictions else ((), (), ())
    return Batch(
        ids_T=ids_T,
        positions_T=torch.tensor(positions),
        segments=tuple(segments),
        slots_S=(ids_T == IMAGE_ID).nonzero().flatten(),
        rows_S=torch.tensor(rows, dtype=torch.long),
        predict_L=torch.tensor(predict, dtype=torch.long),
        labels_L=torch.tensor(labels, dtype=torch.long),
        weights_L=torch.tensor(weights, dtype=torch.float32),
        pixels_NHWC=pixels_NHWC,
        features_NRC=features_NRC,
    )


def _predictions(
    sample: Sample, segment: Segment, start: int, before: int | None
) -> list[tuple[int, int, float]]:
    """(row that predicts, token to be said, weight) of every learned token of a segment placed at row `start`.

    `before` is the row of its parent's last token, which predicts a child's first; the first token of all is
    predicted by nothing.
    """
    out = []
    for at in range(segment.start, segment.end):
        row = before if at == segment.start else start + at - segment.start - 1
        if sample.weights[at] > 0 and row is not None:
            out.append((row, sample.ids[at], sample.weights[at]))
    return out
