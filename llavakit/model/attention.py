"""Packed attention for every Hugging Face decoder: registered once, no model code is forked.

A layout says which tokens see which. It travels as the keyword `layout` through the decoder's forward, and each
attention layer hands it the layer's queries, keys and values. Shape letters: H heads, T tokens, D head width.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment

NAME = "llavakit"
SHORT = 512  # tokens of a tree up to which plain products beat the CPU's fused kernel


class Layout(Protocol):
    """Which token sees which, and the fastest way to compute it."""

    @property
    def longest(self) -> int:
        """At least the number of tokens that any one token sees, itself included."""
        ...

    def attend(self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, scaling: float) -> Tensor:
        """The attended values, shaped as the queries. Keys and values may have fewer heads (grouped queries)."""
        ...


def registered_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What `transformers` calls in every attention layer. The mask is the layout's business, not theirs.

    What a layout cannot express is refused: leaving it out would give another model without a word.
    """
    if sliding_window is not None and layout.longest > sliding_window:
        raise ConfigError(
            f"this decoder has a sliding window of {sliding_window} tokens, and a sample has {layout.longest}; "
            "llavakit does not support windows: use samples and prompts that fit into one"
        )
    if softcap is not None:
        raise ConfigError(
            f"this decoder caps attention scores (softcap={softcap}), which llavakit does not support"
        )
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    return layout.attend(query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, registered_attention)


class TreeLayout:
    """Segments of a packed row, computed tree by tree.

    A tree is a root segment with everything that descends from it; trees do not see each other. A tree of one
    segment is plain causal attention; one with branches takes a mask of its own length squared, so the cost of
    a row is the sum over its trees, never the row squared.
    """

    def __init__(self, segments: tuple[Segment, ...], device: torch.device) -> None:
        self.trees = [
            (start, end, None if len(tree) == 1 and end - start > SHORT else _see(tree, start).to(device))
            for start, end, tree in _trees(segments)
        ]
        self.longest = max(end - start for start, end, _ in self.trees)

    def attend(self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, scaling: float) -> Tensor:
        # Split, not sliced: the gradient of a split is one concatenation, that of slices a full row for each.
        lengths = [end - start for start, end, _ in self.trees]
        cut = zip(*(x.split(lengths, dim=2) for x in (query_1HTD, key_1HTD, value_1HTD)), strict=True)
        parts = []
        for (query, key, value), (start, end, see_TT) in zip(cut, self.trees, strict=True):
            if see_TT is not None and end - start <= SHORT:
                parts.append(attend_plain(query, key, value, see_TT, scaling))
            else:
                parts.append(
                    F.scaled_dot_product_attention(
                        query, key, value,
                        attn_mask=see_TT, is_causal=see_TT is None, scale=scaling, enable_gqa=True,
                    )
                )  # fmt: skip
        return torch.cat(parts, dim=2)


def attend_plain(
    query_1HTD: Tensor, key_1GKD: Tensor, value_1GKD: Tensor, see_TK: Tensor, scaling: float
) -> Tensor:
    """Attention as two products, all scores at once; the queries that share a key head stand in one matrix.

    Up to SHORT tokens this takes half the time of the CPU's fused kernel, which is made for long sequences.
    """
    _, heads, tokens, width = query_1HTD.shape
    _, key_heads, seen, _ = key_1GKD.shape
    query_1GQD = query_1HTD.reshape(1, key_heads, -1, width)
    scores_1GNTK = (query_1GQD @ key_1GKD.transpose(2, 3)).view(1, key_heads, -1, tokens, seen)
    probs_1GNTK = (scores_1GNTK * scaling).masked_fill(~see_TK, -torch.inf).softmax(dim=-1)
    out_1GQD = probs_1GNTK.to(value_1GKD.dtype).view(1, key_heads, -1, seen) @ value_1GKD
    return out_1GQD.view(1, heads, tokens, width)


class FlexLayout:
    """The same rule through FlexAttention, for CUDA: one kernel for the row, blocks that nobody sees skipped."""

    def __init__(self, segments: tuple[Segment, ...], device: torch.device) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        self.longest = max(end - start for start, end, _ in _trees(segments))
        num_tokens = segments[-1].end
        owner_T = torch.repeat_interleave(
            torch.arange(len(segments)), torch.tensor([len(segment) for segment in segments])
        ).to(device)
        sees_SS = _ancestors(segments).to(device)

        def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & sees_SS[owner_T[query], owner_T[key]]

        self.mask = create_block_mask(allowed, None, None, num_tokens, num_tokens, device=str(device))

    def attend(self, query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, scaling: float) -> Tensor:
        # Imported here: importing it pulls in the compiler, which CPU runs never need.
        from torch.nn.attention.flex_attention import flex_attention

        kernel = torch.compile(flex_attention) if query_1HTD.is_cuda else flex_attention
        out = kernel(query_1HTD, key_1HTD, value_1HTD, block_mask=self.mask, scale=scaling, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out


def packed_layout(segments: tuple[Segment, ...], device: torch.device) -> Layout:
    """The layout for a packed row on this kind of device."""
    return FlexLayout(segments, device) if device.type == "cuda" else TreeLayout(segments, device)


def see_matrix(segments: tuple[Segment, ...]) -> Tensor:
    """bool[T, T]: row sees column. The rule itself, for any order of segments; small inputs only."""
    return _see(segments, 0)


def _see(segments: tuple[Segment, ...], offset: int) -> Tensor:
    """bool[T, T] over the tokens of `segments`, whose first token is number `offset` of the row."""
    num_tokens = segments[-1].end - offset
    see_TT = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    ancestors_SS = _ancestors(segments)
    for i, mine in enumerate(segments):
        rows = slice(mine.start - offset, mine.end - offset)
        for j, theirs in enumerate(segments):
            if ancestors_SS[i, j]:
                see_TT[rows, theirs.start - offset : theirs.end - offset] = True
    return see_TT.tril()


def _ancestors(segments: tuple[Segment, ...]) -> Tensor:
    """bool[S, S]: the column is the row itself or one of its ancestors. Parents come before children."""
    ancestors_SS = torch.eye(len(segments), dtype=torch.bool)
    for index, segment in enumerate(segments):
        if segment.parent is not None:
            ancestors_SS[index] |= ancestors_SS[segment.parent]
    return ancestors_SS


def _trees(segments: tuple[Segment, ...]) -> list[tuple[int, int, tuple[Segment, ...]]]:
    """(start, end, segments) of each tree, parents renumbered within it. A tree's segments stand together."""
    trees: list[tuple[int, int, tuple[Segment, ...]]] = []
    roots = [index for index, segment in enumerate(segments) if segment.parent is None]
    for first, after in zip(roots, [*roots[1:], len(segments)], strict=True):
        tree = tuple(
            Segment(segment.start, segment.end, None if segment.parent is None else segment.parent - first)
            for segment in segments[first:after]
        )
        if any(segment.parent is not None and segment.parent < 0 for segment in tree):
            raise ValueError("segments of one tree must stand together in the row")
        trees.append((tree[0].start, tree[-1].end, tree))
    return trees
