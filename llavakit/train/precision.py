"""The arithmetic of a run: which is fastest here, and what its passes compute in."""

import time
from typing import Literal

import torch

from llavakit.model.llava import Llava
from llavakit.train.activation_checkpointing import recomputes
from llavakit.train.sharding import is_sharded

GAIN = 1.2  # bf16 must be this much faster to be worth its rounding


def fastest_precision(device: torch.device) -> Literal["bf16", "float32"]:
    """On CUDA `bf16`, unless it is emulated (before Ampere), which is slower than float32.

    On a CPU, what a matrix product of a small decoder's size takes decides (about 50 ms to find out).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if _seconds(torch.bfloat16) * GAIN < _seconds(torch.float32) else "float32"


def autocast(model: Llava, precision: str) -> torch.autocast:
    """What a pass of the model computes its products in: bfloat16 where `precision` is "bf16".

    Casts of weights are remembered until the pass ends, for weights that it uses twice. Not where that would be all
    that is left of a block that has passed, cast by cast until the model is there again: where ranks give a block's
    weights back behind it, and where its casts are made again in the backward pass.
    """
    return torch.autocast(
        model.device.type,
        torch.bfloat16,
        enabled=precision == "bf16",
        cache_enabled=not (is_sharded(model) or recomputes(model)),
    )


def _seconds(dtype: torch.dtype) -> float:
    """The best of a few products, after one to warm up."""
    a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return best
