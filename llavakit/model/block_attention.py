"""Attention as plain products, block of queries by block: what is fastest on a CPU, forward and backward.

PyTorch's fused kernel for CPUs takes 1.5 to 2.5 times as long (docs/performance.md). Of a block only the keys that
some row of it sees are computed, and the mask is added only where rows see differently. Letters as in attention.py;
F is the last keys of a block, from the first one on that not all of its rows see.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries
# Weights of a head that a tree may keep for its backward pass; more are computed again there.
KEPT = 512 * 512


@dataclass(frozen=True)
class Block:
    """Queries `start..end`, the stretches of keys that any of them sees, and which of them do not see which."""

    start: int
    end: int
    stretches: tuple[tuple[int, int], ...]
    bias_TF: Tensor  # 0 or minus infinity, of the last F of those keys

    @property
    def num_keys(self) -> int:
        return sum(end - start for start, end in self.stretches)

    def take(self, keys_BGTD: Tensor) -> Tensor:
        """The keys, or values, of its stretches. What stands between them, such as other answers, costs nothing."""
        parts = [keys_BGTD[:, :, start:end] for start, end in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def blocks_of(tokens: int, see: Callable[[int, int], Tensor], dtype: torch.dtype) -> list[Block]:
    """`see(start, end)`: bool[end - start, end], which of the keys before `end` those queries see: one at least."""
    blocks = []
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        see_TK = see(start, end)
        some_K = see_TK.any(dim=0)
        see_TS = see_TK[:, some_K]
        hidden = (~see_TS.all(dim=0)).nonzero()
        free = int(hidden[0]) if len(hidden) else see_TS.shape[1]
        bias_TF = torch.zeros(see_TS.shape[0], see_TS.shape[1] - free, dtype=dtype)
        bias_TF.masked_fill_(~see_TS[:, free:], -torch.inf)
        none = torch.zeros(1, dtype=torch.int)
        edges = torch.diff(some_K.int(), prepend=none, append=none).nonzero()[:, 0].tolist()
        stretches = tuple(zip(edges[::2], edges[1::2], strict=True))
        blocks.append(Block(start, end, stretches, bias_TF))
    return blocks


def attend_blocks(
    query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, blocks: list[Block], scaling: float
) -> Tensor:
    """Softmax attention, all three of one type; the queries that share a key head stand in one matrix."""
    keep = sum((block.end - block.start) * block.num_keys for block in blocks) <= KEPT
    parts = [
        _Attend.apply(
            query_BHTD[:, :, block.start : block.end],
            block.take(key_BGTD), block.take(value_BGTD), block.bias_TF, scaling, keep,
        )
        for block in blocks
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _Attend(torch.autograd.Function):
    """One block. Its weights are kept for the backward pass, or computed again there as they were."""

    @staticmethod
    def forward(
        ctx: Any, query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, bias_TF: Tensor, scaling: float,
        keep: bool,
    ) -> Tensor:  # fmt: skip
        query_XQD, key_XKD, value_XKD = (
            x.reshape(key_BGKD.shape[0] * key_BGKD.shape[1], -1, x.shape[-1])
            for x in (query_BHTD, key_BGKD, value_BGKD)
        )
        probs_XQK = _weigh(query_XQD, key_XKD, bias_TF, scaling)
        ctx.save_for_backward(query_XQD, key_XKD, value_XKD, bias_TF, probs_XQK if keep else None)
        ctx.scaling, ctx.shapes = scaling, (query_BHTD.shape, key_BGKD.shape, value_BGKD.shape)
        # Values of some decoders are narrower than keys.
        return torch.bmm(probs_XQK, value_XKD).view(*query_BHTD.shape[:3], value_BGKD.shape[3])

    @staticmethod
    def backward(ctx: Any, out_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        query_XQD, key_XKD, value_XKD, bias_TF, probs_XQK = ctx.saved_tensors
        if probs_XQK is None:
            probs_XQK = _weigh(query_XQD, key_XKD, bias_TF, ctx.scaling)
        out_XQD = out_BHTD.reshape(len(query_XQD), -1, value_XKD.shape[2])
        value = torch.bmm(probs_XQK.transpose(1, 2), out_XQD)
        probs = torch.bmm(out_XQD, value_XKD.transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(probs, probs_XQK, -1, probs_XQK.dtype)
        query = torch.bmm(scores, key_XKD).mul_(ctx.scaling)
        key = torch.bmm(scores.transpose(1, 2), query_XQD).mul_(ctx.scaling)
        gradients = (x.view(shape) for x, shape in zip((query, key, value), ctx.shapes, strict=True))
        return *gradients, None, None, None


def _weigh(query_XQD: Tensor, key_XKD: Tensor, bias_TF: Tensor, scaling: float) -> Tensor:
    """The softmax of the scores, those of what a query does not see at minus infinity. X: batch and key heads."""
    scores_XQK = torch.bmm(query_XQD * scaling, key_XKD.transpose(1, 2))
    tokens, partly = bias_TF.shape
    if partly:
        scores_XQK.view(len(scores_XQK), -1, tokens, key_XKD.shape[1])[..., -partly:] += bias_TF
    return scores_XQK.softmax(dim=-1)
