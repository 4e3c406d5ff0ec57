"""Packing: samples into rows of a token budget, rows into batches. No padding, ever."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llavakit.core.types import IMAGE_ID, MARKS, Batch, Segment, segment_positions
from llavakit.data.encode import Sample
from llavakit.data.image_slots import fill_image_slots


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


def collate(samples: Sequence[Sample], tiles: Sequence[Tensor] = (), *, learn: bool = True) -> Batch:
    """One packed row. `tiles` holds, for each image or video in order, uint8[N, H, W, 3] or its features[N, R, C].

    With `learn`, the last token of every leaf is left out of the row: it is a label, and nothing looks at it.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    predictions: list[tuple[int, int, float]] = []
    answers: list[int] = []
    marks: list[float] = []  # of each learned token: its leaf's, where samples have them
    num_leaves = 0
    for sample in samples:
        first, leaves = len(segments), set(sample.leaves)
        marked = dict(zip(sample.leaves, sample.marks, strict=True)) if sample.marks else {}
        place = segment_positions(sample.segments)
        for segment in sample.segments:
            start = len(ids)
            parent = None if segment.parent is None else first + segment.parent
            before = None if parent is None else segments[parent].end - 1
            said = _predictions(sample, segment, start, before)
            predictions += said
            answers += [num_leaves if segment in leaves else -1] * len(said)
            if marked:
                marks += [marked.get(segment, 0)] * len(said)
            num_leaves += segment in leaves
            stop = segment.end - 1 if learn and segment in leaves else segment.end
            ids += sample.ids[segment.start : stop]
            positions += place[segment.start : stop]
            segments.append(Segment(start, len(ids), parent))
    plans = [media.plan for sample in samples for media in sample.media]
    predict, labels, weights = zip(*predictions, strict=True) if predictions else ((), (), ())
    return Batch(
        ids_T=torch.tensor(ids),
        positions_T=torch.tensor(positions),
        segments=tuple(segments),
        predict_L=torch.tensor(predict, dtype=torch.long),
        labels_L=torch.tensor(labels, dtype=torch.long),
        weights_L=torch.tensor(weights, dtype=torch.float32),
        answers_L=torch.tensor(answers, dtype=torch.long),
        columns={MARKS: torch.tensor(marks, dtype=torch.float32)} if marks else {},
        **vars(fill_image_slots(plans, tiles, np.flatnonzero(np.array(ids) == IMAGE_ID))),
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
