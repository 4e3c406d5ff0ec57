"""Losses: pure functions that return sums. Who divides by what is the loop's business."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WHOLE = 2048  # rows up to which all logits are alive at once: 2048 x 152k x 4 bytes is 1.2 GB
CHUNK = 512  # and beyond it, where they are computed twice


def weighted_cross_entropy(
    hidden_LD: Tensor,
    labels_L: Tensor,
    weights_L: Tensor,
    logits: Callable[[Tensor], Tensor],
    *,
    whole: int = WHOLE,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """(sum of weight x negative log-likelihood, sum of weight x hit), both float32 scalars.

    `logits` and the sizes are those of `token_logprobs`.
    """
    logprobs_L, hits_L = _in_chunks(_logprobs_and_hits, hidden_LD, labels_L, logits, whole, chunk)
    return -(logprobs_L * weights_L).sum(), (hits_L * weights_L).sum()


def token_logprobs(
    hidden_LD: Tensor,
    labels_L: Tensor,
    logits: Callable[[Tensor], Tensor],
    *,
    whole: int = WHOLE,
    chunk: int = CHUNK,
) -> Tensor:
    """The log-probability of each label, float32[L].

    `logits` maps hidden rows to [rows, V]. With more than `whole` rows they are recomputed in the backward pass,
    and never more than `chunk` rows of them exist.
    """
    [logprobs_L] = _in_chunks(_logprobs, hidden_LD, labels_L, logits, whole, chunk)
    return logprobs_L


Look = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # at logits[L, V], with the labels


def _in_chunks(
    look: Look,
    hidden_LD: Tensor,
    labels_L: Tensor,
    logits: Callable[[Tensor], Tensor],
    whole: int,
    chunk: int,
) -> tuple[Tensor, ...]:
    def work(rows_LD: Tensor, rows_L: Tensor) -> tuple[Tensor, ...]:
        return look(logits(rows_LD).float(), rows_L)

    if len(hidden_LD) <= whole:
        return work(hidden_LD, labels_L)
    found = [
        checkpoint(work, hidden_LD[rows], labels_L[rows], use_reentrant=False)
        for rows in torch.arange(len(hidden_LD), device=hidden_LD.device).split(chunk)
    ]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _logprobs(logits_LV: Tensor, labels_L: Tensor) -> tuple[Tensor]:
    return (-F.cross_entropy(logits_LV, labels_L, reduction="none"),)


def _logprobs_and_hits(logits_LV: Tensor, labels_L: Tensor) -> tuple[Tensor, Tensor]:
    """And whether each label is the likeliest token, without gradient: a search that costs a third of the loss."""
    return *_logprobs(logits_LV, labels_L), (logits_LV.argmax(dim=-1) == labels_L).float()
