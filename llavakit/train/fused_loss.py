"""Head and loss of many rows in one pass: logits of a few rows exist, never a table of all rows and words.

The loss is a weighted sum, so what a chunk of rows adds to every gradient is known when its logits are: they are
made once, turned into their own gradient in place, and gone. (The idea of "Cut Your Losses", arXiv 2411.09009, and
of Liger's fused linear cross entropy, arXiv 2410.10989, in plain PyTorch.)

Shape letters: L rows, D width, V words.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1024  # rows whose logits are there, in the type of the products
PART = 64  # rows of them in float32, where no compiler keeps float32 in registers
Gradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fused_cross_entropy(
    hidden_LD: Tensor, labels_L: Tensor, weights_L: Tensor, head: nn.Linear, compiler: str | None = None
) -> tuple[Tensor, Tensor]:
    """(sum of weight x negative log-likelihood, sum of weight x hit), both float32 scalars.

    The same as `weighted_cross_entropy` of losses.py with `head`, up to the order of sums. Beside the gradient of
    the head, which is summed in float32, at most CHUNK rows of V numbers take memory. `compiler`: the backend of
    `torch.compile` that turns logits into gradients; None: PyTorch's operations one by one.
    """
    product = torch.get_autocast_dtype(hidden_LD.device.type) if _casts(hidden_LD) else hidden_LD.dtype
    loss, hits = _FusedLoss.apply(
        hidden_LD, head.weight, head.bias, labels_L, weights_L.float(), product, compiler
    )
    return loss, hits


def _casts(hidden_LD: Tensor) -> bool:
    return torch.is_autocast_enabled(hidden_LD.device.type)


class _FusedLoss(torch.autograd.Function):
    """Gradients are made in the forward pass, for a loss of weight one, and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_LD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_L: Tensor,
        weights_L: Tensor,
        product: torch.dtype,
        compiler: str | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden_LD.device.type, enabled=False):
            table_VD = weight_VD.to(product)
            offset_V = None if bias_V is None else bias_V.to(product)
            needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
            grad_LD = torch.empty_like(hidden_LD) if needs_hidden else None
            grad_VD: Tensor | None = None
            grad_V = (
                torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
            )
            loss, hits = weights_L.new_zeros(()), weights_L.new_zeros(())
            for start in range(0, len(hidden_LD), CHUNK):
                rows = slice(start, start + CHUNK)
                chunk_CD = hidden_LD[rows].to(product)
                logits_CV = F.linear(chunk_CD, table_VD, offset_V)
                one = len(logits_CV) == 1  # would be a graph of its own
                into_gradient = _into_gradient if compiler is None or one else _compiled(compiler)
                found = into_gradient(logits_CV, labels_L[rows], weights_L[rows])
                loss, hits = loss + found[0], hits + found[1]
                if grad_LD is not None:
                    grad_LD[rows] = (logits_CV @ table_VD).to(grad_LD.dtype)
                if needs_weight:
                    grad_VD = _add_product(grad_VD, logits_CV, chunk_CD)
                if grad_V is not None:
                    grad_V += logits_CV.sum(dim=0, dtype=torch.float32)
                del logits_CV  # before the next are made
            if needs_weight and grad_VD is None:  # no rows
                grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        ctx.save_for_backward(grad_LD, grad_VD, grad_V)
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad.mul_(grads[0].to(grad.dtype)) for grad in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


def _into_gradient(logits_CV: Tensor, labels_C: Tensor, weights_C: Tensor) -> tuple[Tensor, Tensor]:
    """Put the loss's gradient in the place of the logits; returns the rows' loss and hits."""
    loss, hits = weights_C.new_zeros(()), weights_C.new_zeros(())
    for part_PV, labels_P, weights_P in zip(
        logits_CV.split(PART), labels_C.split(PART), weights_C.split(PART), strict=True
    ):
        numbers_PV = part_PV.float()
        top_P, likeliest_P = numbers_PV.max(dim=-1)
        picked_P = numbers_PV.gather(1, labels_P[:, None])[:, 0]
        probs_PV = numbers_PV.softmax(dim=-1)  # one pass, and the norm follows from the largest of them
        norm_P = top_P - probs_PV.gather(1, likeliest_P[:, None])[:, 0].log()
        hits = hits + ((likeliest_P == labels_P) * weights_P).sum()
        loss = loss + ((norm_P - picked_P) * weights_P).sum()
        probs_PV.mul_(weights_P[:, None]).scatter_add_(1, labels_P[:, None], -weights_P[:, None])
        part_PV.copy_(probs_PV)
    return loss, hits


@cache
def _compiled(backend: str) -> Gradient:
    """`_into_gradient` of a whole chunk: two passes over the logits, float32 in registers only."""

    def into_gradient(logits_CV: Tensor, labels_C: Tensor, weights_C: Tensor) -> tuple[Tensor, Tensor]:
        numbers_CV = logits_CV.float()
        top_C, likeliest_C = numbers_CV.max(dim=-1)
        shares_CV = (numbers_CV - top_C[:, None]).exp()
        sum_C = shares_CV.sum(dim=-1)
        picked_C = numbers_CV.gather(1, labels_C[:, None])[:, 0]
        is_label_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == labels_C[:, None]
        probs_CV = shares_CV * (1 / sum_C)[:, None] - is_label_CV.float()
        logits_CV.copy_(probs_CV * weights_C[:, None])
        loss = ((top_C + sum_C.log() - picked_C) * weights_C).sum()
        return loss, ((likeliest_C == labels_C) * weights_C).sum()

    compiled: Gradient = torch.compile(into_gradient, dynamic=True, backend=backend)
    return compiled


def _add_product(sum_VD: Tensor | None, grad_CV: Tensor, chunk_CD: Tensor) -> Tensor:
    """The sum with grad^T x rows, in float32, whatever type the product is in."""
    if sum_VD is not None and grad_CV.dtype == torch.float32:
        # In place by a function that PyTorch's counter of operations knows.
        return torch.addmm(sum_VD, grad_CV.t(), chunk_CD, out=sum_VD)
    product_VD = grad_CV.t() @ chunk_CD
    return product_VD.float() if sum_VD is None else sum_VD.add_(product_VD)
