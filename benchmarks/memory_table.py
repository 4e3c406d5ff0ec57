"""Memory per GPU and tokens per second to expect, computed from model dimensions. Nothing here was measured.

python -m benchmarks.memory_table           # rewrites the tables in docs/scale.md
python -m benchmarks.memory_table --peak 312 --print     # the same for an A100, on the screen

Memory is what `llavakit train NAME --dry-run` tells (llavakit/train/estimate.py), and operations are those that a
run counts (llavakit/train/flops.py). GB are 10^9 bytes.
"""

import argparse
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.page import rewrite
from llavakit.core.types import Batch, Segment
from llavakit.data.settings import DataConfig
from llavakit.model.families import FAMILIES
from llavakit.model.families.row import family_config
from llavakit.model.llava import Llava
from llavakit.model.outline import outline
from llavakit.train.estimate import Memory, estimate_memory
from llavakit.train.flops import StepFlops
from llavakit.train.freezing import train_only
from llavakit.train.run import Run

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- tables: written by python -m benchmarks.memory_table -->", "<!-- end of tables -->"
GPUS = (1, 8, 64, 512)
MODELS = {
    "7B": "llava16-7b", "13B": "llava16-13b", "34B": "llava16-34b", "72B": "llava-next-qwen-72b",
    "110B": "llava-next-qwen-110b",
}  # fmt: skip
STAGES = {
    "Everything trained (stage 2 of LLaVA-NeXT)": ("tower", "connector", "language", "newline"),
    "Only the connector trained (stage 1)": ("connector",),
}


@dataclass(frozen=True)
class Assumed:
    """What cannot be computed."""

    peak: float = 989  # TFLOP/s of one GPU in bf16, dense (H100 SXM)
    memory: float = 80  # GB of one GPU
    usable: float = 0.9  # the rest is fragments, workspaces and the driver
    mfu: float = 0.4  # useful FLOP/s over peak, nothing recomputed, on one machine
    loss_by_eight: float = 0.95  # times this for eight times the GPUs, from 8 on
    tokens: int = 4096  # of a packed row; a rank computes one row at a time
    learned: float = 0.3  # share of its tokens that carry weight
    tiles: int = 5  # tower calls a row needs, in tiles
    segment: int = 1500  # tokens of a sample: what attention looks back over


@dataclass(frozen=True)
class Way:
    """One way to run: bytes on a GPU, and the speed of all GPUs together."""

    how: str
    memory: Memory
    tokens_per_second: float

    def fits(self, assumed: Assumed) -> bool:
        return self.memory.total <= assumed.usable * assumed.memory * 1e9


@cache
def model_of(name: str) -> Llava:
    """The released model's modules without numbers."""
    return outline(family_config(FAMILIES[MODELS[name]]))


@cache
def row_flops(name: str, assumed: Assumed, trained: tuple[str, ...]) -> int:
    """Useful FLOPs of a row, forward and backward, of the model in which these parts are trained."""
    model = model_of(name)
    train_only(model, trained)
    tokens, learned = torch.zeros(assumed.tokens, dtype=torch.long), int(assumed.learned * assumed.tokens)
    bounds = [*range(0, assumed.tokens, assumed.segment), assumed.tokens]
    segments = tuple(Segment(start, end) for start, end in pairwise(bounds))
    side = model.tower.size
    pixels = torch.empty(assumed.tiles, side, side, 3, dtype=torch.uint8, device="meta")
    row = Batch(
        tokens, tokens, segments, tokens[:learned], tokens[:learned], torch.ones(learned), pixels=(pixels,)
    )
    return StepFlops(model).count([row])


def ways(name: str, gpus: int, assumed: Assumed, trained: tuple[str, ...]) -> list[Way]:
    """From the fastest to the smallest: whole or cut over all GPUs, without and with recomputing."""
    model = model_of(name)
    train_only(model, trained)
    seconds = row_flops(name, assumed, trained) / (_rate(assumed, gpus) * 1e12)
    # One more forward pass: of three, or, where only input gradients are computed, of two.
    again = 4 / 3 if "language" in trained else 3 / 2
    found = []
    for recompute in (False, True):
        run = Run(
            train=trained, precision="bf16", checkpointing=recompute, data=DataConfig(tokens=assumed.tokens),
            model=family_config(FAMILIES[MODELS[name]]),
        )  # fmt: skip
        for shards in (1, gpus) if gpus > 1 else (1,):
            how = ("whole" if shards == 1 else "FSDP") + (", recomputing" if recompute else "")
            memory = estimate_memory(run, model, shards=shards, learned=assumed.learned)
            found.append(Way(how, memory, gpus * assumed.tokens / (seconds * (again if recompute else 1))))
    return found


def best(name: str, gpus: int, assumed: Assumed, trained: tuple[str, ...]) -> Way:
    """The fastest way that fits; the smallest where none does."""
    every = ways(name, gpus, assumed, trained)
    fitting = [way for way in every if way.fits(assumed)]
    return fitting[0] if fitting else min(every, key=lambda way: way.memory.total)


def table(assumed: Assumed, trained: tuple[str, ...]) -> str:
    """One Markdown table."""
    lines = [
        "| model | GPUs | how | state | copies | activations | logits | together, GB | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        for gpus in GPUS:
            way = best(name, gpus, assumed, trained)
            memory = way.memory
            state = memory.weights + memory.gradients + memory.moments
            parts = (state, memory.copies, memory.activations, memory.logits)
            cells = " | ".join(f"{part / 1e9:.1f}" for part in parts)
            together, fits = f"{memory.total / 1e9:.0f}", way.fits(assumed)
            end = (
                f"{together} | {_two_digits(way.tokens_per_second)}" if fits else f"{together}: too much | –"
            )
            lines.append(f"| {name} | {gpus} | {way.how} | {cells} | {end} |")
    return "\n".join(lines)


def tables(assumed: Assumed) -> str:
    """A table for each stage, under what is trained in it."""
    return "\n\n".join(f"{title}:\n\n{table(assumed, trained)}" for title, trained in STAGES.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in vars(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    given = vars(parser.parse_args())
    only_print = given.pop("print")
    text = tables(Assumed(**given))
    if only_print:
        print(text)
        return
    rewrite(PAGE, BEGIN, END, text)


def _rate(assumed: Assumed, gpus: int) -> float:
    """Useful TFLOP/s of one GPU among so many."""
    eights = 0
    while gpus > 8:
        gpus //= 8
        eights += 1
    return assumed.peak * assumed.mfu * assumed.loss_by_eight**eights


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


if __name__ == "__main__":
    main()
