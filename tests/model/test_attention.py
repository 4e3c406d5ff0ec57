"""The registered attention against its plain masked twin, on segment trees of every shape."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llavakit.core.types import Segment
from llavakit.model.attention import FlexLayout, TreeLayout, see_matrix

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


def masked(query, key, value, scaling, segments):
    """The rule as one mask over the whole row: obviously right, row squared."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=see_matrix(segments), scale=scaling)


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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(segment_trees(), st.sampled_from([(4, 4), (4, 2), (6, 1)]))
def test_tree_layout_equals_the_masked_twin(segments, heads):
    torch.manual_seed(0)
    size = segments[-1].end
    query = torch.randn(1, heads[0], size, 8, requires_grad=True)
    key, value = (torch.randn(1, heads[1], size, 8, requires_grad=True) for _ in range(2))
    ours = TreeLayout(segments, CPU).attend(query, key, value, 0.3)
    twin = masked(query, key, value, 0.3, segments)
    torch.testing.assert_close(ours, twin, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(twin)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), (query, key, value)),
        torch.autograd.grad((twin * weight).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(segment_trees())
def test_flex_layout_equals_the_masked_twin(segments):
    """FlexAttention's mask, run here in its uncompiled CPU form; the CUDA kernel takes the same mask."""
    torch.manual_seed(0)
    size = segments[-1].end
    query, key, value = (torch.randn(1, heads, size, 16) for heads in (4, 2, 2))
    ours = FlexLayout(segments, CPU).attend(query, key, value, 0.3)
    torch.testing.assert_close(ours, masked(query, key, value, 0.3, segments), atol=1e-5, rtol=1e-5)


def test_a_tree_must_stand_together():
    with_stranger = (Segment(0, 2), Segment(2, 4), Segment(4, 6, parent=0))
    try:
        TreeLayout(with_stranger, CPU)
    except ValueError as error:
        assert "stand together" in str(error)
    else:
        raise AssertionError("a child behind another tree must be refused")
