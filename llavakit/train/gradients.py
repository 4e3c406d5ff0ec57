"""Gradients of a whole step: summed over the ranks, and clipped."""

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.ranks import Ranks
from llavakit.train.sharding import gather_full, is_sharded


def sum_gradients(model: Llava, batches: list[Batch], ranks: Ranks) -> None:
    """Make every rank's gradients those of the whole step.

    FSDP has summed them in the backward pass. What no row of the step used is left without a gradient, as in a
    run of one process: zeros would still move it through the optimizer's momentum.
    """
    if ranks.size == 1:
        return
    if is_sharded(model):
        media, separators = ranks.sums(
            [
                sum(bool(batch.gathers) for batch in batches),
                sum(bool(len(batch.separator_slots_S)) for batch in batches),
            ]
        )
        unused = [model.tower, model.connector] * (not media) + [model.newline] * (not separators)
        for part in unused:
            part.zero_grad(set_to_none=True)
        return
    params = [param for param in model.parameters() if param.requires_grad]
    used = ranks.sums([float(param.grad is not None) for param in params])
    grads = []
    for param, count in zip(params, used, strict=True):
        if count:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            grads.append(param.grad)
    for bucket in _buckets(grads):
        flat = torch.cat([grad.flatten() for grad in bucket])
        dist.all_reduce(flat)
        for grad, summed in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(summed.view_as(grad))


def _buckets(grads: list[Tensor], limit: int = 2**26) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one type, up to `limit` elements together: few large messages, bounded copies."""
    bucket: list[Tensor] = []
    for grad in grads:
        full = sum(one.numel() for one in bucket) + grad.numel() > limit
        if bucket and (full or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket


def clip_gradients(model: nn.Module, limit: float) -> float:
    """The gradient's norm before clipping: that of the whole model, also where ranks hold shares of it."""
    params = [p for p in model.parameters() if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    norm = gather_full(torch.nn.utils.get_total_norm(grads))
    torch.nn.utils.clip_grads_with_norm_(params, limit if limit > 0 else math.inf, norm)
    return float(norm)
