"""The registered attention against its plain masked twin, on segment trees of every shape."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment, segment_positions
from llavakit.model import attention, block_attention
from llavakit.model.attention import Scoring, TreeLayout, registered_attention, see_matrix
from llavakit.model.fused import FusedLayout

CPU = torch.device("cpu")


@st.composite
def segment_trees(draw) -> tuple[Segment, ...]:
    """A packed row: trees one after another, each segment's parent anywhere earlier in its own tree."""
    segments: list[Segment] = []
    at = 0
    for _ in range(draw(st.integers(1, 3))):
        root = len(segments)
        for number in range(draw(st.integers(1, 4))):
            length = draw(st.integers(1, 5))
            parent = None if number == 0 else draw(st.integers(root, len(segments) - 1))
            segments.append(Segment(at, at + length, parent))
            at += length
    return tuple(segments)


HOWS = {
    "plain": Scoring(0.3),
    "window": Scoring(0.3, window=3),
    "chunk": Scoring(0.3, chunk=4),
    "softcap": Scoring(0.3, softcap=0.5),
    "sinks": Scoring(0.3, sinks_H=torch.tensor([0.5, -1.0, 2.0, 0.0])),
    "all": Scoring(0.3, window=4, softcap=0.7, sinks_H=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


def masked(query, key, value, how, segments):
    """The rule as one mask over the whole row, the layer's ways written out: obviously right, row squared."""
    groups, at = query.shape[1] // key.shape[1], segment_positions(segments)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * how.scaling
    if how.softcap is not None:
        scores = how.softcap * (scores / how.softcap).tanh()
    see = see_matrix(segments)
    for row, column in see.nonzero().tolist():
        if how.window is not None and at[row] - at[column] >= how.window:
            see[row, column] = False
        if how.chunk is not None and at[row] // how.chunk != at[column] // how.chunk:
            see[row, column] = False
    weights = scores.masked_fill(~see, -torch.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if how.sinks_H is not None:
        total = total + how.sinks_H.exp()[:, None, None]
    return weights / total @ value


def sees(segments: tuple[Segment, ...], row: int, column: int) -> bool:
    """The definition, token by token: the column is earlier or equal, in the row's segment or an ancestor."""
    if column > row:
        return False
    owner = next(i for i, s in enumerate(segments) if s.start <= row < s.end)
    while owner is not None:
        if segments[owner].start <= column < segments[owner].end:
            return True
        owner = segments[owner].parent
    return False


@settings(max_examples=60, deadline=None, derandomize=True)
@given(segment_trees())
def test_see_matrix_is_the_definition(segments):
    see = see_matrix(segments)
    size = segments[-1].end
    assert see.tolist() == [[sees(segments, row, column) for column in range(size)] for row in range(size)]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    segment_trees(), st.sampled_from([4, 2, 1]), st.sampled_from(sorted(HOWS)),
    st.sampled_from([1, 3, 128]), st.sampled_from([0, 20, 10_000]),
)  # fmt: skip
def test_tree_layout_equals_the_masked_twin(segments, key_heads, how, block, kept):
    """In blocks of few queries, too, whose weights are kept or computed again; values may be narrower than keys."""
    torch.manual_seed(0)
    size = segments[-1].end
    query = torch.randn(1, 4, size, 8, requires_grad=True)
    key, value = (torch.randn(1, key_heads, size, width, requires_grad=True) for width in (8, 6))
    with mock.patch.multiple(block_attention, BLOCK=block, KEPT=kept):
        ours = TreeLayout(segments, CPU).attend(query, key, value, HOWS[how])
    twin = masked(query, key, value, HOWS[how], segments)
    torch.testing.assert_close(ours, twin, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(twin)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), (query, key, value)),
        torch.autograd.grad((twin * weight).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_long_segments_are_computed_in_blocks(how, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", 8)
    torch.manual_seed(0)
    segments = (Segment(0, 21), Segment(21, 30), Segment(30, 33, 1), Segment(33, 35))
    query, key, value = (torch.randn(1, heads, 35, 8) for heads in (4, 2, 2))
    ours = TreeLayout(segments, CPU).attend(query, key, value, HOWS[how])
    torch.testing.assert_close(ours, masked(query, key, value, HOWS[how], segments), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [TreeLayout, FusedLayout])
def test_dropout_drops_its_share_and_keeps_the_mean(layout):
    torch.manual_seed(0)
    segments = (Segment(0, 40),)
    query, key = torch.zeros(1, 4, 40, 8), torch.zeros(1, 4, 40, 8)
    value = torch.ones(1, 4, 40, 8)
    out = layout(segments, CPU).attend(query, key, value, Scoring(1.0, dropout=0.5))
    assert out[0, :, 0, 0].unique().tolist() in ([0.0], [2.0], [0.0, 2.0])  # one weight: dropped or doubled
    assert abs(float(out[0, :, 20:].mean()) - 1) < 0.2


def test_what_a_layer_asks_for_and_nobody_knows_is_refused():
    layout = TreeLayout((Segment(0, 3),), CPU)
    query = torch.randn(1, 2, 3, 4)
    registered_attention(torch.nn.Linear(1, 1), query, query, query, None, layout=layout, position_ids=query)
    registered_attention(torch.nn.Linear(1, 1), query, query, query, None, layout=layout, indices=None)
    with pytest.raises(ConfigError, match="Linear asks for attention with position_bias"):
        registered_attention(
            torch.nn.Linear(1, 1), query, query, query, None, layout=layout, position_bias=query
        )
    with pytest.raises(ConfigError, match="Linear asks for attention with is_causal=False"):
        registered_attention(torch.nn.Linear(1, 1), query, query, query, None, layout=layout, is_causal=False)


def test_a_tree_must_stand_together():
    with_stranger = (Segment(0, 2), Segment(2, 4), Segment(4, 6, parent=0))
    try:
        TreeLayout(with_stranger, CPU)
    except ValueError as error:
        assert "stand together" in str(error)
    else:
        raise AssertionError("a child behind another tree must be refused")
