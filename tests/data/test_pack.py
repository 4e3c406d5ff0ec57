"""Packing and collating against their plain definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.types import IMAGE_ID, Gather, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate, pack_rows
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.vision.plan import plan_image
from tests import tiny

WEIGHTS = st.sampled_from([0.0, 0.0, 1.0, 0.5])


@st.composite
def samples(draw) -> Sample:
    """A random tree of segments; the images, if any, stand in the root."""
    num_images = draw(st.integers(0, 2))
    plan = plan_image(tiny.IMAGE, (30, 40))
    ids: list[int] = []
    weights: list[float] = []
    segments: list[Segment] = []
    for number in range(draw(st.integers(1, 4))):
        start = len(ids)
        parent = None if number == 0 else draw(st.one_of(st.none(), st.integers(0, number - 1)))
        if number == 0:
            for _ in range(num_images):
                ids += [7] + [IMAGE_ID] * plan.num_tokens
                weights += [0.0] * (1 + plan.num_tokens)
        for _ in range(draw(st.integers(1, 4))):
            ids.append(draw(st.integers(10, 99)))
            weights.append(draw(WEIGHTS))
        segments.append(Segment(start, len(ids), parent))
    return Sample(tuple(ids), tuple(weights), tuple(segments), (Media(b"", plan),) * num_images)


def plain_predictions(sample: Sample) -> set[tuple[tuple[int, ...], int, int, float]]:
    """(tokens read so far, position of the last, next token, weight) of every learned token of every path."""
    parents = {segment.parent for segment in sample.segments}
    found = set()
    for number in range(len(sample.segments)):
        if number in parents:
            continue
        chain, at = [], number
        while at is not None:
            chain.insert(0, at)
            at = sample.segments[at].parent
        steps = [
            (sample.ids[i], sample.weights[i], (i,))
            for part in chain
            for i in range(sample.segments[part].start, sample.segments[part].end)
        ]
        for place in range(1, len(steps)):
            token, weight, where = steps[place]
            if weight > 0:
                read = tuple(step[0] for step in steps[:place])
                found.add((read, place - 1, token, weight, where))
    return found


def read_by(batch, row: int) -> tuple[int, ...]:
    """The tokens a packed row's position sees, itself included, in order."""
    number = next(n for n, segment in enumerate(batch.segments) if segment.start <= row < segment.end)
    tokens: list[int] = []
    end = row + 1
    at: int | None = number
    while at is not None:
        segment = batch.segments[at]
        tokens = batch.ids_T[segment.start : end].tolist() + tokens
        at = segment.parent
        end = batch.segments[at].end if at is not None else 0
    return tuple(tokens)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(50, 120))
def test_every_sample_is_packed_once_and_no_row_is_too_long(lengths, budget):
    rows = pack_rows(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= budget for row in rows)
    assert rows == pack_rows(list(lengths), budget)
    # No two rows could have been one: the later one's longest sample did not fit into the earlier.
    loads = [sum(lengths[index] for index in row) for row in rows]
    assert all(first + second > budget for n, first in enumerate(loads) for second in loads[n + 1 :])


def blank(group) -> list[torch.Tensor]:
    """Black tiles for all media."""
    return [torch.zeros(m.plan.tiles, 28, 28, 3, dtype=torch.uint8) for sample in group for m in sample.media]


def gathers(batch) -> tuple[list[int], list[int]]:
    """The slots of a batch and the feature row of each, where every token is one row."""
    (only,) = batch.gathers or (Gather(torch.empty(0), torch.empty(0, 1)),)
    assert only.weights_SK is None and not batch.pools
    return only.into_S.tolist(), only.rows_SK[:, 0].tolist()


def test_packing_takes_the_longest_first_into_the_first_row_with_room():
    assert pack_rows([3, 9, 1, 6, 4, 1], 10) == [[1, 2], [3, 4], [0, 5]]
    assert pack_rows([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert pack_rows([], 10) == []


@settings(derandomize=True, max_examples=80, deadline=None)
@given(group=st.lists(samples(), min_size=1, max_size=4))
def test_collated_predictions_are_those_of_every_path(group):
    batch = collate(group, blank(group))
    expected = sorted(
        (read, position, token, weight)
        for sample in group
        for read, position, token, weight, _ in plain_predictions(sample)
    )
    got = sorted(
        (read_by(batch, row), int(batch.positions_T[row]), token, weight)
        for row, token, weight in zip(
            batch.predict_L.tolist(), batch.labels_L.tolist(), batch.weights_L.tolist(), strict=True
        )
    )
    assert got == expected
    assert batch.weight == pytest.approx(sum(weight for *_, weight in expected))
    assert batch.num_tokens == sum(sample.num_inputs for sample in group)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(group=st.lists(samples(), min_size=1, max_size=4))
def test_without_learning_every_token_is_kept(group):
    batch = collate(group, blank(group), learn=False)
    assert batch.ids_T.tolist() == [token for sample in group for token in sample.ids]
    assert [len(segment) for segment in batch.segments] == [
        len(s) for sample in group for s in sample.segments
    ]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(group=st.lists(samples(), min_size=1, max_size=4))
def test_image_slots_and_rows_belong_to_each_other(group):
    count = sum(len(sample.media) for sample in group)
    batch = collate(group, blank(group))
    slots = [at for at, token in enumerate(batch.ids_T.tolist()) if token == IMAGE_ID]
    assert sum(len(pixels) for pixels in batch.pixels) == count
    gathered = dict(zip(*gathers(batch), strict=True))
    assert gathered == dict(zip(slots, range(4 * count), strict=True))  # tile by tile, row by row


def test_pictures_of_several_samples_are_counted_through(tmp_path):
    encoder = tiny.encoder()
    pictures = [tiny.picture(tmp_path / f"{number}.png", number) for number in range(3)]
    first = encoder.encode(Conversation((user("q", pictures[:2]), assistant("red"))))
    second = encoder.encode(Conversation((user("q", pictures[2:]), assistant("blue"))))
    text = encoder.encode(Conversation((user("q"), assistant("no"))))
    batch = collate([first, text, second], [torch.zeros(1, 4, 32)] * 3)
    slots, rows = gathers(batch)
    assert rows == list(range(12))
    assert len(set(slots)) == 12
    assert [segment.parent for segment in batch.segments] == [None, None, None]
    starts = [segment.start for segment in batch.segments]
    assert [int(batch.positions_T[start]) for start in starts] == [0, 0, 0]


def test_a_missing_or_superfluous_tile_is_refused(tmp_path):
    sample = tiny.encoder().encode(
        Conversation((user("q", [tiny.picture(tmp_path / "a.png")]), assistant("red")))
    )
    for tiles in ([], [torch.zeros(2, 28, 28, 3, dtype=torch.uint8)]):
        with pytest.raises(ValueError, match=r"\[1\] tile\(s\) planned"):
            collate([sample], tiles)


def test_a_batch_without_anything_to_learn_is_empty_not_broken():
    batch = collate([Sample((1, 2, 3), (0.0, 0.0, 0.0), (Segment(0, 3),))])
    assert batch.weight == 0
    assert batch.predict_L.dtype == batch.labels_L.dtype == torch.long
