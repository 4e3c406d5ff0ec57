"""Packed attention by fused kernels, for CUDA: one call for a row, whatever its trees.

Rows of plain sequences take PyTorch's kernel for variable lengths. Rows with branches take FlexAttention, compiled
once: a row is described by tensors of its own length, so another row is the same graph. Letters as in attention.py;
B is blocks of tokens.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.core.types import Segment, segment_positions, send
from llavakit.model.attention import Layout, Scoring, TreeLayout, trees_of

BLOCK = 128  # tokens of FlexAttention's blocks
HALF = (torch.bfloat16, torch.float16)  # what kernels for variable lengths take
AMPERE = 8  # the first generation of cards that has them
WIDEST = 256  # of their heads, whose width is a multiple of EIGHTH; keys' and values' are the same
EIGHTH = 8
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def seen_until(segments: tuple[Segment, ...]) -> list[int]:
    """For each segment the end of all that descends from it: whoever stands before that end sees the segment.

    ValueError where segments do not stand in depth-first order, in which this is the whole rule.
    """
    ends, path = [0] * len(segments), list[int]()
    for index, segment in enumerate(segments):
        while path and path[-1] != segment.parent:
            ends[path.pop()] = segment.start
        if not path and segment.parent is not None:
            raise ValueError(f"segment {index} does not stand behind its parent's other descendants")
        path.append(index)
    for index in path:
        ends[index] = segments[-1].end
    return ends


def spread(values: list[int], segments: tuple[Segment, ...]) -> Tensor:
    """int32[T]: each segment's value at each of its tokens."""
    lengths = torch.tensor([len(segment) for segment in segments])
    return torch.repeat_interleave(torch.tensor(values, dtype=torch.int32), lengths)


class FusedLayout:
    """The rule of `TreeLayout` in one kernel for the row; what nobody sees is not computed."""

    def __init__(self, segments: tuple[Segment, ...], device: torch.device) -> None:
        """`segments` in depth-first order."""
        self.segments, self._device = segments, device
        trees = trees_of(segments)
        self._longest = max(end - start for start, end, _ in trees)
        self._is_plain = len(trees) == len(segments)
        self._starts = [start for start, _, _ in trees]
        self._until_T = spread(seen_until(segments), segments)
        self._at_T = torch.tensor(segment_positions(segments), dtype=torch.int32)
        self._masks: dict[tuple[int | None, int | None], Any] = {}
        self._ends_S1: Tensor | None = None  # of plain sequences, 0 first, on the device

    def attend(self, query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, how: Scoring) -> Tensor:
        # Under autocast a rotary embedding may leave queries and keys wider than values.
        query, key = query_1HTD.to(value_1GTD.dtype), key_1GTD.to(value_1GTD.dtype)
        how = how.within(self._longest)
        # No kernel drops weights; and a row of one block would be a graph of its own.
        if how.dropout or query.shape[2] <= BLOCK:
            return TreeLayout(self.segments, self._device).attend(query, key, value_1GTD, how)
        if self._is_plain and takes_lengths(query, value_1GTD, how):
            if self._ends_S1 is None:
                ends_S1 = torch.tensor([*self._starts, len(self._at_T)], dtype=torch.int32)
                self._ends_S1 = send(ends_S1, query.device)
            return attend_lengths(query, key, value_1GTD, self._ends_S1, self._longest, how)
        return attend_flex(query, key, value_1GTD, self._mask(how), how)

    def _mask(self, how: Scoring) -> Any:
        """The block mask for layers that see so far; layers share it."""
        key = (how.window, how.chunk)
        if key not in self._masks:
            self._masks[key] = block_mask(self._until_T, self._at_T, how, self._device)
        return self._masks[key]


def attend_lengths(
    query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, ends_S1: Tensor, longest: int, how: Scoring
) -> Tensor:
    """Plain sequences of a row, of at most `longest` tokens. int32 `ends_S1`: 0 and where each ends."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (x[0].transpose(0, 1) for x in (query_1HTD, key_1GTD, value_1GTD))
    out_THD = varlen_attn(
        query, key, value, ends_S1, ends_S1, longest, longest,
        scale=how.scaling, window_size=(-1 if how.window is None else how.window - 1, 0), enable_gqa=True,
    )  # fmt: skip
    assert isinstance(out_THD, Tensor)  # no more was asked for
    return out_THD.transpose(0, 1)[None]


def takes_lengths(query: Tensor, value: Tensor, how: Scoring) -> bool:
    """Whether the kernel for variable lengths computes this."""
    if not query.is_cuda or query.dtype not in HALF or not how.is_plain or how.chunk is not None:
        return False
    if not takes_width(query.shape[-1], value.shape[-1]):
        return False
    return torch.cuda.get_device_capability(query.device)[0] >= AMPERE and has_varlen()


def takes_width(width: int, value_width: int) -> bool:
    """Whether that kernel has heads of this width."""
    return width == value_width and width <= WIDEST and width % EIGHTH == 0


@cache
def has_varlen() -> bool:
    """Whether PyTorch's kernel takes what `attend_lengths` hands it: since 2.12; 2.10 and 2.11 have one without."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


@cache
def compiled_flex(backend: str = "inductor") -> Callable[..., Any]:
    """FlexAttention as one graph for every row. Importing it pulls in the compiler, which CPU runs never need."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, backend=backend)


def attend_flex(
    query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, mask: Any, how: Scoring, kernel: Any = None
) -> Tensor:
    """FlexAttention by a block mask, with the layer's softcap and sinks, by the device's own kernel or another."""
    from torch.nn.attention.flex_attention import flex_attention

    kernel = kernel or (compiled_flex() if query_1HTD.is_cuda else flex_attention)
    settings: dict[str, Any] = {"block_mask": mask, "scale": how.scaling, "enable_gqa": True}
    if how.softcap is not None:
        settings["score_mod"] = _cap(how.softcap)
    if query_1HTD.is_cuda:
        card = torch.cuda.get_device_capability(query_1HTD.device)
        settings["kernel_options"] = fitting_tiles(query_1HTD.shape[3], query_1HTD.dtype, card)
    if how.sinks_H is None:
        out: Tensor = kernel(query_1HTD, key_1GTD, value_1GTD, **settings)
        return out
    out, lse_1HT = kernel(query_1HTD, key_1GTD, value_1GTD, return_lse=True, **settings)
    # What the sink takes of the softmax: exp(lse) / (exp(lse) + exp(sink)) is left for the others.
    share_1HT = torch.sigmoid(lse_1HT - how.sinks_H[:, None].float())
    return out * share_1HT[..., None].to(out.dtype)


def fitting_tiles(width: int, dtype: torch.dtype, card: tuple[int, int]) -> dict[str, int] | None:
    """FlexAttention's tiles where PyTorch's own need more shared memory than the card has; None: its own.

    By the sizes that Triton 3.7 gives for torch 2.13 (sm_80: 163 KiB, sm_86, sm_89 and sm_120: 99, sm_90: 227).
    """
    padded = 1 << (width - 1).bit_length()
    is_small = card in ((8, 6), (8, 9)) or card[0] == 12
    if dtype == torch.float32 and padded == 128 and card[0] != 9:  # 177 KiB, then 72
        return {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 32, "fwd_num_stages": 2}
    if dtype == torch.float32 and padded == 256 and is_small:  # 132, then 66
        return {"fwd_BLOCK_M": 32, "fwd_BLOCK_N": 16, "fwd_num_stages": 2}
    if dtype != torch.float32 and padded == 256 and is_small:  # 148 and backward 132, then 84 and 68
        backward = {f"bwd_BLOCK_{side}": 32 for side in ("M1", "N1", "M2", "N2")}
        return {"fwd_BLOCK_M": 32, "fwd_BLOCK_N": 64, "fwd_num_stages": 2, **backward, "bwd_num_stages": 2}
    return None


@cache
def _cap(limit: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return limit * torch.tanh(score / limit)

    return capped


def block_mask(until_T: Tensor, at_T: Tensor, how: Scoring, device: torch.device) -> Any:
    """Which blocks of keys a block of queries sees in part and which whole: from ends of blocks, not from pairs.

    `until_T`: the first token that does not see this one any more; `at_T`: positions. Both on the CPU.
    """
    from torch.nn.attention.flex_attention import BlockMask

    part_BB, whole_BB = block_sight(until_T, at_T, how)
    blocks: dict[str, Any] = {}
    for name, seen_BB in (("", part_BB), ("full_", whole_BB)):
        # By rows for the forward pass, by columns for the backward one.
        for side, seen in (("kv", seen_BB), ("q", seen_BB.T)):
            counts_B, places_BB = listed(seen)
            blocks[f"{name}{side}_num_blocks"] = send(counts_B[None, None], device)
            blocks[f"{name}{side}_indices"] = send(places_BB[None, None], device)
    rule = sight(send(until_T, device), send(at_T, device), how.window, how.chunk)
    size = len(until_T)
    return BlockMask((size, size), BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=rule, **blocks)


def listed(seen_BB: Tensor) -> tuple[Tensor, Tensor]:
    """(int32[B] how many of a row are seen, int32[B, B] which, in order; behind those nothing is said)."""
    rows, columns = seen_BB.nonzero(as_tuple=True)
    counts_B = seen_BB.sum(1)
    places_BB = torch.zeros(seen_BB.shape, dtype=torch.int32)
    nth = torch.arange(len(rows)) - (counts_B.cumsum(0) - counts_B)[rows]
    places_BB[rows, nth] = columns.to(torch.int32)
    return counts_B.to(torch.int32), places_BB


def block_sight(until_T: Tensor, at_T: Tensor, how: Scoring) -> tuple[Tensor, Tensor]:
    """(bool[B, B] a block of queries sees some of a block of keys, bool[B, B] all of it); never both.

    The first may say too much, never too little: the rule itself decides there.
    """
    size = len(until_T)
    firsts_B = torch.arange(0, size, BLOCK)
    lasts_B = (firsts_B + BLOCK).clamp(max=size) - 1
    last_until_B, first_until_B = _highest(until_T), -_highest(-until_T)
    highest_B, lowest_B = _highest(at_T), -_highest(-at_T)
    before_BB = firsts_B[:, None] > lasts_B
    some_BB = (before_BB | torch.eye(len(firsts_B), dtype=torch.bool)) & (last_until_B > firsts_B[:, None])
    all_BB = before_BB & (first_until_B > lasts_B[:, None])
    if how.window is not None:
        some_BB &= lowest_B[:, None] - highest_B < how.window
        all_BB &= highest_B[:, None] - lowest_B < how.window
    if how.chunk is not None:
        lowest_chunk_B, highest_chunk_B = lowest_B // how.chunk, highest_B // how.chunk
        some_BB &= lowest_chunk_B[:, None] <= highest_chunk_B
        one_B = lowest_chunk_B == highest_chunk_B
        all_BB &= one_B[:, None] & one_B & (lowest_chunk_B[:, None] == lowest_chunk_B)
    # A last block that is not full has queries and keys that are not there: the rule must say so.
    if size % BLOCK:
        all_BB[-1] = False
    return some_BB & ~all_BB, all_BB


def _highest(values_T: Tensor) -> Tensor:
    """The highest value of each block."""
    spare = -len(values_T) % BLOCK
    return F.pad(values_T, (0, spare), value=torch.iinfo(values_T.dtype).min).view(-1, BLOCK).amax(1)


def sight(until_T: Tensor, at_T: Tensor, window: int | None, chunk: int | None) -> Rule:
    """The rule token by token, as FlexAttention asks for it."""

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (query >= key) & (query < until_T[key])
        if window is not None:
            seen = seen & (at_T[query] - at_T[key] < window)
        if chunk is not None:
            seen = seen & (at_T[query] // chunk == at_T[key] // chunk)
        return seen

    return allowed


def packed_layout(segments: tuple[Segment, ...], device: torch.device) -> Layout:
    """The layout for a packed row on this kind of device."""
    return FusedLayout(segments, device) if device.type == "cuda" else TreeLayout(segments, device)
