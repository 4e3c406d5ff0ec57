"""Attention of a layer on this processor, forward and backward: PyTorch's fused kernel, masked scores, our blocks.

Causal, one sequence, bf16, SmolLM2-135M's heads: nine of 64, three of keys. Milliseconds, medians, in turn.

    python -m benchmarks.attention [--runs 9] [--tokens 120 360 480 1000 1500]
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import in_turn, median, report
from llavakit.core.memory import keep_freed_memory
from llavakit.model.block_attention import attend_blocks, blocks_of

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
SCALING = WIDTH**-0.5

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def ways(tokens: int) -> dict[str, Attend]:
    """The same attention in three ways, [1, heads, tokens, width]."""
    see_TK = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    blocks = blocks_of(tokens, lambda start, end: see_TK[start:end, :end], torch.bfloat16)

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    def masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (key, value))
        scores = (query * SCALING) @ key.transpose(2, 3)
        return scores.masked_fill(~see_TK, -torch.inf).softmax(dim=-1) @ value

    return {
        "blocks": lambda query, key, value: attend_blocks(query, key, value, blocks, SCALING),
        "fused": fused,
        "masked": masked,
    }


def measure(tokens: int, runs: int) -> dict[str, float]:
    """Milliseconds of each way; what they give must agree."""
    dice = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, tokens, WIDTH, generator=dice).bfloat16().requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    found = ways(tokens)
    outs = {name: attend(query, key, value).detach() for name, attend in found.items()}
    for out in outs.values():
        torch.testing.assert_close(out, outs["masked"], atol=0.03, rtol=0.03)

    def clock(attend: Attend) -> float:
        began = time.perf_counter()
        attend(query, key, value).backward(outs["masked"])
        query.grad = key.grad = value.grad = None
        return 1000 * (time.perf_counter() - began)

    contenders = {name: lambda _run, attend=attend: clock(attend) for name, attend in found.items()}
    in_turn(contenders, 2)
    return {name: median(each) for name, each in in_turn(contenders, runs).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", default=[120, 360, 480, 1000, 1500])
    arguments = parser.parse_args()
    keep_freed_memory()
    for tokens in arguments.tokens:
        took = {name: round(each, 1) for name, each in measure(tokens, arguments.runs).items()}
        peer = {"name": "fused kernel of PyTorch", "version": torch.__version__, "value": took["fused"]}
        report(
            f"attention, {tokens} tokens", took["blocks"], peer, "ms", better="lower", runs=arguments.runs,
            masked=took["masked"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
