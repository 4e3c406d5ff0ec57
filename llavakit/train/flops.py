"""Floating-point operations of a training step, and how many this device can do: model FLOP utilisation.

Only matrix products are counted, a multiply-add as two; what is computed twice to save memory counts once. The
backward pass of a product is one product for its input's gradient and one for its weight's, each where needed.
"""

import copy
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from llavakit.core.types import Batch, Segment
from llavakit.model.llava import Llava
from llavakit.train.freezing import is_trained


class StepFlops:
    """Counts for one model, from its shapes and from what of it learns. Build it after freezing.

    Not counted: experts of mixture decoders, which are no linear layers. Counted though not computed: gradients of
    the first decoder layer's inputs in a run that trains nothing before it.
    """

    def __init__(self, model: Llava) -> None:
        self._tower = _meta_twin(model.tower)
        self._tiles: dict[tuple[int, ...], tuple[int, int]] = {}
        tower_learns = is_trained(model.tower)
        self._connector, before = _per_row(model.connector, tower_learns)
        language = model.language
        before = before or is_trained(model.newline) or is_trained(language.get_input_embeddings())
        self._decoder, before = _per_row(language.get_decoder(), before)
        self._head, _ = _per_row(language.get_output_embeddings(), before)
        config = language.config.to_dict()
        heads = config["num_attention_heads"]
        width = heads * (config.get("head_dim") or config["hidden_size"] // heads)
        # Scores and values: two products of T x T x width; their backward pass is four.
        self._pair = config["num_hidden_layers"] * 2 * 2 * width * (3 if before else 1)

    def count(self, batches: Sequence[Batch]) -> int:
        """Of these rows, forward and backward. The attention of a tree of T tokens is T x T, as it is computed."""
        return sum(self._row(batch) for batch in batches)

    def _row(self, batch: Batch) -> int:
        flops = batch.num_tokens * self._decoder + len(batch.predict_L) * self._head
        flops += self._pair * sum(length**2 for length in tree_lengths(batch.segments))
        rows = 0 if batch.features_RC is None else len(batch.features_RC)
        for pixels_NHWC in batch.pixels:
            tile_flops, tile_rows = self._tile(tuple(pixels_NHWC.shape[1:]))
            flops += len(pixels_NHWC) * tile_flops
            rows += len(pixels_NHWC) * tile_rows
        if batch.pools:
            rows = sum(len(pool.into_S) for pool in batch.pools)
        return flops + rows * self._connector

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(operations, feature rows) of one tile of this size: the tower is run once, without numbers."""
        if shape not in self._tiles:
            pixels = torch.empty(1, *shape, dtype=torch.uint8, device="meta")
            # Written out: a fused kernel's backward pass computes the scores anew.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                rows_NRC = self._tower(pixels)
                if rows_NRC.requires_grad:
                    rows_NRC.sum().backward()
            self._tiles[shape] = (counter.get_total_flops(), rows_NRC.shape[1])
        return self._tiles[shape]


def tree_lengths(segments: tuple[Segment, ...]) -> list[int]:
    """Tokens of each tree of a packed row: from one segment without a parent to the next."""
    starts = [segment.start for segment in segments if segment.parent is None]
    return [end - start for start, end in zip(starts, [*starts[1:], segments[-1].end], strict=True)]


def measure_peak(device: torch.device, precision: str, *, seconds: float = 0.1) -> float:
    """Operations per second of large matrix products on this device: what utilisation is a fraction of.

    The best of what fits in `seconds`, and of eight at least: on a busy machine, and on one whose clock has yet to
    rise, most products are slow. Of random numbers: a GPU computes with ones faster, as fewer bits change.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    own = torch.Generator(device).manual_seed(0)  # the run's random state stays as it is
    a = torch.randn(side, side, device=device, generator=own).to(dtype)
    best = float("inf")
    start, count = time.perf_counter(), 0
    while count < 8 or time.perf_counter() - start < seconds:
        count += 1
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _per_row(module: nn.Module | None, before: bool) -> tuple[int, bool]:
    """(operations of the linear layers per row of input, whether anything up to their end learns)."""
    flops = 0
    assert module is not None
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            size = layer.in_features * layer.out_features  # four-bit weights have another shape
        elif isinstance(layer, Conv1D):
            size = layer.weight.numel()
        else:
            continue
        learns = bool(layer.weight.requires_grad)
        flops += 2 * size * (1 + before + learns)
        before = before or learns
    return flops, before


def _meta_twin(module: nn.Module) -> nn.Module:
    """The same module without numbers, adapters and frozen parts included; nothing is copied."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, memo)
