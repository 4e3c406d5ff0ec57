"""Packed attention for every Hugging Face decoder: registered once, no model code is forked.

A layout says which tokens see which. It travels as the keyword `layout` through the decoder's forward, and each
attention layer hands it the layer's queries, keys and values, and how the layer turns them into weights. Shape
letters: B sequences (a packed row is one), H heads, G key heads, N queries per key head, T tokens, K keys, D head
width.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment, segment_positions, send
from llavakit.model.block_attention import Block, attend_blocks, blocks_of

NAME = "llavakit"
SHORT = 512  # tokens of a tree up to which plain products beat the CPU's fused kernel
# What classes of `transformers` send along that cannot change what a layer computes: places that are rotated into
# queries and keys before, and what the caller wants back.
HARMLESS = frozenset({
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
})  # fmt: skip


@dataclass(frozen=True)
class Scoring:
    """How a layer turns queries and keys into weights, beyond the rule of who sees whom.

    `window`: a token sees so many tokens back, itself included; `chunk`: or those of its own stretch of so many
    positions. `softcap` c: scores s become c tanh(s / c). `sinks_H`: a logit per head that takes part in the
    softmax and gathers nothing. `dropout` is the share of the weights that is dropped.
    """

    scaling: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    sinks_H: Tensor | None = None
    dropout: float = 0.0

    @property
    def is_plain(self) -> bool:
        """A softmax over scaled products and nothing else: what fused kernels compute."""
        return self.softcap is None and self.sinks_H is None and self.dropout == 0

    @property
    def is_local(self) -> bool:
        """Whether far tokens are not seen."""
        return self.window is not None or self.chunk is not None

    def within(self, longest: int) -> "Scoring":
        """The same for rows that see at most `longest` positions: limits that reach farther are left out."""
        if not self.is_local or longest > min(self.window or longest, self.chunk or longest):
            return self
        return replace(self, window=None, chunk=None)

    def is_near(self, query_T: Tensor, key_K: Tensor) -> Tensor:
        """bool[T, K]: the position of the query is near enough to see that of the key, which is not behind it."""
        near_TK = torch.ones(len(query_T), len(key_K), dtype=torch.bool, device=query_T.device)
        if self.window is not None:
            near_TK &= query_T[:, None] - key_K < self.window
        if self.chunk is not None:
            near_TK &= query_T[:, None] // self.chunk == key_K // self.chunk
        return near_TK

    def first_near(self, position: int) -> int:
        """The lowest position that one at `position` sees."""
        first = 0 if self.window is None else max(0, position - self.window + 1)
        return first if self.chunk is None else max(first, position // self.chunk * self.chunk)


class Layout(Protocol):
    """Which token sees which, and the fastest way to compute it."""

    def attend(self, query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, how: Scoring) -> Tensor:
        """The attended values, shaped as the queries. Keys and values may have fewer heads (grouped queries)."""
        ...


class KeyValueCache(Protocol):
    """What the classes of `transformers` call to store new keys and values, and to ask what is there.

    Positions and what is seen are the layout's business, so all but `update` are the same for every cache.
    """

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]: ...

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by some decoders (OPT) to count positions, which they are given anyway."""
        return 0

    def get_query_offset(self, layer: int = 0) -> int:
        """Asked where a mask would be made; ours says how far a layer sees, wherever its rows are."""
        return 0

    def get_mask_sizes(self, query_length: int, layer: int = 0) -> tuple[int, int]:
        """As `get_query_offset`: the number of keys, and where they begin."""
        return query_length, 0


def registered_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What `transformers` calls in every attention layer: its keywords are what a layer does in its own way.

    `attention_mask` is what `describe_mask` made. A keyword that is not known is refused: leaving it out would give
    another model without a word.
    """
    if layout is None:
        raise ConfigError(f"{type(module).__name__} is not handed the keywords of its decoder's forward")
    unknown = sorted(name for name, value in others.items() if name not in HARMLESS and value is not None)
    if unknown or is_causal is False:
        what = ", ".join(unknown) if unknown else "is_causal=False"
        raise ConfigError(
            f"{type(module).__name__} asks for attention with {what}, which llavakit does not compute; "
            "choose another decoder"
        )
    reach = 0 if attention_mask is None else int(attention_mask.flatten()[0])
    windows = [size for size in (sliding_window, reach) if size is not None and size > 0]
    how = Scoring(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=min(windows, default=None),
        chunk=-reach if reach < 0 else None,
        softcap=softcap,
        sinks_H=s_aux,
        dropout=dropout,
    )
    # Contiguous, as eager attention returns it: some classes take a view of it.
    return layout.attend(query, key, value, how).transpose(1, 2).contiguous(), None


def describe_mask(
    *,
    config: PreTrainedConfig,
    local_size: int | None = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool | None = None,
    **_: Any,
) -> Tensor:
    """int64[1, 1, 1, 1] in the place of a mask: how far a token of these layers sees, and no more.

    `transformers` calls it where it would make a mask, and some classes speak of windows nowhere else. 0 for as
    far as there is, a window's size, or minus the size of a chunk. Four dimensions, as classes slice their masks.
    """
    if use_vmap or allow_is_bidirectional_skip is not None:
        rule = "a mask rule of its own" if use_vmap else "attention in both directions"
        raise ConfigError(
            f"a decoder of type {config.model_type} has {rule}, which llavakit does not compute"
        )
    settings = vars(config)
    is_chunk = local_size == settings.get("attention_chunk_size") and settings.get("sliding_window") is None
    reach = local_size or 0
    return torch.full((1, 1, 1, 1), -reach if is_chunk else reach)


AttentionInterface.register(NAME, registered_attention)
AttentionMaskInterface.register(NAME, describe_mask)


def attend_plain(
    query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, see_TK: Tensor, how: Scoring
) -> Tensor:
    """Attention as two products, all scores at once; the queries that share a key head stand in one matrix.

    `see_TK` is the whole rule, nearness included. Up to some hundred tokens this takes half the time of the CPU's
    fused kernel, which is made for long sequences.
    """
    batch, heads, tokens, width = query_BHTD.shape
    _, key_heads, seen, _ = key_BGKD.shape
    query_BGQD = query_BHTD.reshape(batch, key_heads, -1, width)
    scores_BGQK = query_BGQD @ key_BGKD.transpose(2, 3)
    scores_BGNTK = scores_BGQK.view(batch, key_heads, -1, tokens, seen) * how.scaling
    if how.softcap is not None:
        scores_BGNTK = how.softcap * torch.tanh(scores_BGNTK / how.softcap)
    probs_BGNTK = weigh(scores_BGNTK.masked_fill(~see_TK, -torch.inf), how).to(value_BGKD.dtype)
    out_BGQD = probs_BGNTK.view(batch, key_heads, -1, seen) @ value_BGKD
    return out_BGQD.view(batch, heads, tokens, -1)


def weigh(scores_BGNTK: Tensor, how: Scoring) -> Tensor:
    """The softmax of masked scores, with the layer's sinks and dropout. N: queries per key head."""
    if how.sinks_H is None:
        probs_BGNTK = scores_BGNTK.softmax(dim=-1)
    else:
        sinks_GN11 = how.sinks_H.view(*scores_BGNTK.shape[1:3], 1, 1).to(scores_BGNTK.dtype)
        sinks_BGNT1 = sinks_GN11.expand(*scores_BGNTK.shape[:-1], 1)
        probs_BGNTK = torch.cat((scores_BGNTK, sinks_BGNT1), dim=-1).softmax(dim=-1)[..., :-1]
    return F.dropout(probs_BGNTK, how.dropout) if how.dropout else probs_BGNTK


def attend_masked(
    query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, see_TK: Tensor, how: Scoring
) -> Tensor:
    """The same in the way that is fastest or smallest for so many tokens."""
    if not how.is_plain or see_TK.numel() <= SHORT * SHORT:
        return attend_plain(query_BHTD, key_BGKD, value_BGKD, see_TK, how)
    return F.scaled_dot_product_attention(
        query_BHTD, key_BGKD, value_BGKD, attn_mask=see_TK, scale=how.scaling, enable_gqa=True
    )


def attend_causally(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, how: Scoring) -> Tensor:
    """Plain sequences without branches, in the way that is fastest or smallest."""
    if how.is_plain and not how.is_local:
        return F.scaled_dot_product_attention(
            query_BHTD, key_BGTD, value_BGTD, is_causal=True, scale=how.scaling, enable_gqa=True
        )
    return _attend_blocks(query_BHTD, key_BGTD, value_BGTD, how)


def _attend_blocks(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, how: Scoring) -> Tensor:
    """Block of queries by block, each with the keys that are near enough."""
    parts, places_T = [], torch.arange(query_BHTD.shape[2], device=query_BHTD.device)
    for start in range(0, len(places_T), SHORT):
        first, end = how.first_near(start), min(start + SHORT, len(places_T))
        mine_T, theirs_K = places_T[start:end], places_T[first:end]
        see_TK = (mine_T[:, None] >= theirs_K) & how.is_near(mine_T, theirs_K)
        query, key, value = (
            query_BHTD[:, :, start:end],
            key_BGTD[:, :, first:end],
            value_BGTD[:, :, first:end],
        )
        parts.append(attend_masked(query, key, value, see_TK, how))
    return torch.cat(parts, dim=2)


class CausalLayout:
    """A batch of plain sequences of at most `longest` tokens, padded behind their ends."""

    def __init__(self, longest: int) -> None:
        self._longest = longest

    def attend(self, query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, how: Scoring) -> Tensor:
        return attend_causally(query_BHTD, key_BGTD, value_BGTD, how.within(self._longest))


@dataclass(frozen=True)
class Tree:
    """A root segment with everything that descends from it: tokens `start..end` of the row."""

    start: int
    end: int
    positions_T: Tensor
    see_TT: Tensor | None  # None: plainly causal, and too long for a mask that says no more


class TreeLayout:
    """Segments of a packed row, computed tree by tree.

    Trees do not see each other. A tree of one segment is plain causal attention; one with branches takes a mask of
    its own length squared, so the cost of a row is the sum over its trees, never the row squared.
    """

    def __init__(self, segments: tuple[Segment, ...], device: torch.device) -> None:
        self.segments, self.trees = segments, []
        for start, end, tree in trees_of(segments):
            see_TT = None if len(tree) == 1 and end - start > SHORT else send(_see(tree, start), device)
            positions_T = send(torch.tensor(segment_positions(tree)), device)
            self.trees.append(Tree(start, end, positions_T, see_TT))
        self._near: dict[tuple[int, int | None, int | None], Tensor] = {}  # layers share them, and these
        self._blocks: dict[tuple[int, int | None, int | None, torch.dtype], list[Block]] = {}

    def attend(self, query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, how: Scoring) -> Tensor:
        # Split, not sliced: the gradient of a split is one concatenation, that of slices a full row for each.
        lengths = [tree.end - tree.start for tree in self.trees]
        queries, keys, values = (x.split(lengths, dim=2) for x in (query_1HTD, key_1GTD, value_1GTD))
        parts = [
            self._attend(tree, query, key, value, how)
            for tree, query, key, value in zip(self.trees, queries, keys, values, strict=True)
        ]
        return torch.cat(parts, dim=2)

    def _attend(self, tree: Tree, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        how = how.within(tree.end - tree.start)
        if how.is_plain and query.device.type == "cpu":
            # Under autocast a rotary embedding may leave queries and keys wider than values.
            query, key = query.to(value.dtype), key.to(value.dtype)
            return attend_blocks(query, key, value, self._cut(tree, how, value.dtype), how.scaling)
        if tree.see_TT is not None:
            return attend_masked(query, key, value, self._see(tree, how), how)
        return attend_causally(query, key, value, how)

    def _cut(self, tree: Tree, how: Scoring, dtype: torch.dtype) -> list[Block]:
        """A tree's rows in blocks, for layers that see so far."""

        def see(start: int, end: int) -> Tensor:
            at_T = tree.positions_T[:end]
            see_TT = tree.see_TT
            see_TK = at_T[start:, None] >= at_T if see_TT is None else see_TT[start:end, :end]
            return see_TK & how.is_near(at_T[start:], at_T) if how.is_local else see_TK

        key = (tree.start, how.window, how.chunk, dtype)
        if key not in self._blocks:
            self._blocks[key] = blocks_of(tree.end - tree.start, see, dtype)
        return self._blocks[key]

    def _see(self, tree: Tree, how: Scoring) -> Tensor:
        assert tree.see_TT is not None
        if not how.is_local:
            return tree.see_TT
        key = (tree.start, how.window, how.chunk)
        if key not in self._near:
            self._near[key] = tree.see_TT & how.is_near(tree.positions_T, tree.positions_T)
        return self._near[key]


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


def trees_of(segments: tuple[Segment, ...]) -> list[tuple[int, int, tuple[Segment, ...]]]:
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
