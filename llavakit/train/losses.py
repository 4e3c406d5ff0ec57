"""Losses: pure functions that return sums. Who divides by what is the loop's business."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

WHOLE = 2048  # rows up to which all logits are alive at once: 2048 x 152k x 4 bytes is 1.2 GB
CHUNK = 512  # and beyond it, where they are computed twice
Beside = Literal["hits", "entropy"]


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
    logprobs_L, hits_L = _in_chunks(hidden_LD, labels_L, logits, whole, chunk, "hits")
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
    return _in_chunks(hidden_LD, labels_L, logits, whole, chunk, None)[0]


def logprobs_and_entropy(
    hidden_LD: Tensor, labels_L: Tensor, logits: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(as `token_logprobs`, the entropy of what each label was drawn from in nats, without a gradient)."""
    return _in_chunks(hidden_LD, labels_L, logits, WHOLE, CHUNK, "entropy")


def _in_chunks(
    hidden_LD: Tensor,
    labels_L: Tensor,
    logits: Callable[[Tensor], Tensor],
    whole: int,
    chunk: int,
    beside: Beside | None,
) -> tuple[Tensor, Tensor]:
    def work(rows_LD: Tensor, rows_L: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = LabelLogprobs.apply(logits(rows_LD), rows_L, beside)
        return found

    if len(hidden_LD) <= whole:
        return work(hidden_LD, labels_L)
    found = [
        checkpoint(work, hidden_LD[rows], labels_L[rows], use_reentrant=False)
        for rows in torch.arange(len(hidden_LD), device=hidden_LD.device).split(chunk)
    ]
    logprobs, others = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(others)


class LabelLogprobs(torch.autograd.Function):
    """(log-probability of each label, what is asked for beside it), float32[L], of logits[L, V].

    Beside it: `hits`, whether the label is the likeliest token, or the `entropy` in nats; else zeros.

    What the softmax of PyTorch gives, forward and backward, in float32; but float32 rows exist a few at a time, and
    between the two passes the logits alone are kept, in their own type: a half to a quarter of the memory.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_LV: Tensor, labels_L: Tensor, beside: Beside | None
    ) -> tuple[Tensor, Tensor]:
        logprobs_L = torch.empty(len(labels_L), device=logits_LV.device)
        beside_L = torch.zeros_like(logprobs_L)
        for rows in _few_rows(logits_LV):
            rows_RV, here_R = logits_LV[rows].float(), labels_L[rows]
            if beside == "entropy":
                logprobs_L[rows], beside_L[rows] = _with_entropy(rows_RV, here_R)
                continue
            logprobs_L[rows] = rows_RV.log_softmax(dim=-1).gather(1, here_R[:, None])[:, 0]
            if beside == "hits":
                beside_L[rows] = (rows_RV.argmax(dim=-1) == here_R).float()
        ctx.save_for_backward(logits_LV, labels_L)
        ctx.mark_non_differentiable(beside_L)
        return logprobs_L, beside_L

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_LV, labels_L = ctx.saved_tensors
        grad_L, grad_LV = grads[0], torch.empty_like(logits_LV)
        for rows in _few_rows(logits_LV):
            minus_R1 = -grad_L[rows, None]
            rows_RV = logits_LV[rows].float().softmax(dim=-1).mul_(minus_R1)
            grad_LV[rows] = rows_RV.scatter_add_(1, labels_L[rows, None], -minus_R1)
        return grad_LV, None, None


def _with_entropy(rows_RV: Tensor, labels_R: Tensor) -> tuple[Tensor, Tensor]:
    """Both from one softmax: the likeliest token's logit and probability tell how far all logits are too large."""
    probs_RV, most_R = rows_RV.softmax(dim=-1), rows_RV.amax(dim=-1)
    least_R = probs_RV.amax(dim=-1).log()
    picked_R = rows_RV.gather(1, labels_R[:, None])[:, 0]
    mean_R = probs_RV.mul_(rows_RV).sum(dim=-1)
    return picked_R - most_R + least_R, most_R - mean_R - least_R


def _few_rows(logits_LV: Tensor) -> Iterator[slice]:
    """Rows that are looked at together: what fits a processor's cache, or what fills a GPU."""
    numbers = 2**26 if logits_LV.is_cuda else 2**20
    count = max(1, numbers // logits_LV.shape[1])
    return (slice(start, start + count) for start in range(0, len(logits_LV), count))
