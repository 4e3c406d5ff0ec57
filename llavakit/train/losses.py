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
    logprobs_L, hits_L = token_logprobs(hidden_LD, labels_L, logits, whole=whole, chunk=chunk)
    return -(logprobs_L * weights_L).sum(), (hits_L * weights_L).sum()


def token_logprobs(
    hidden_LD: Tensor,
    labels_L: Tensor,
    logits: Callable[[Tensor], Tensor],
    *,
    whole: int = WHOLE,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """(log-probability of each label, whether it is the likeliest token without gradient), both float32[L].

    `logits` maps hidden rows to [rows, V]. With more than `whole` rows they are recomputed in the backward pass,
    and never more than `chunk` rows of them exist.
    """
    if len(hidden_LD) <= whole:
        return _chunk_logprobs(hidden_LD, labels_L, logits)
    found = [
        checkpoint(_chunk_logprobs, hidden_LD[rows], labels_L[rows], logits, use_reentrant=False)
        for rows in torch.arange(len(hidden_LD), device=hidden_LD.device).split(chunk)
    ]
    logprobs, hits = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(hits)


def _chunk_logprobs(
    hidden_LD: Tensor, labels_L: Tensor, logits: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    logits_LV = logits(hidden_LD).float()
    logprobs_L = -F.cross_entropy(logits_LV, labels_L, reduction="none")
    return logprobs_L, (logits_LV.argmax(dim=-1) == labels_L).float()
