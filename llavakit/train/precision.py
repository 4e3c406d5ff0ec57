"""Which arithmetic is fastest here: bfloat16 on GPUs and on CPUs with matrix units, float32 on other CPUs."""

import time
from typing import Literal

import torch

GAIN = 1.2  # bf16 must be this much faster to be worth its rounding


def fastest_precision(device: torch.device) -> Literal["bf16", "float32"]:
    """`bf16` on CUDA; on a CPU, what a matrix product of a small decoder's size takes (about 50 ms to find out)."""
    if device.type == "cuda":
        return "bf16"
    return "bf16" if _seconds(torch.bfloat16) * GAIN < _seconds(torch.float32) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """The best of a few products, after one to warm up."""
    a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return best
