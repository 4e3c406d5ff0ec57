"""A whole training run, files to weights: `train()` against the SFTTrainer of TRL, same model, same records.

TRL refuses to pack and to leave padding out where a data set has pictures, so its batches are padded. Both sides
read the same PNG files and the same text, each in the form it wants, eight records a step in the same order, and
learn the same tokens (TRL: the completion of a prompt). They must agree on the count of learned tokens and on the
loss of every step. Timed is the loop with its waiting for data; two steps warm up. Building the model and
saving it are left out. Each run is a process of its own. `ratio_processor` compares the processor's seconds of a
learned token: on a machine that does other work too it is the steadier number.

The peer is run as a user gets it and, as `ratio_tuned`, with what a user could set: activations kept (TRL
recomputes them by default) and the memory setting that our command line makes.

TRL must live in an environment of its own:

    python -m venv trl-venv
    trl-venv/bin/pip install torch==2.13.0 transformers==5.23.0 'trl==1.16.*' datasets accelerate pillow
    python -m benchmarks.sft_trl --peer-python trl-venv/bin/python [--runs 3] [--steps 6]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from skimage import data as photos

from benchmarks.machine import median, report
from benchmarks.sft import build_model
from llavakit.core.memory import keep_freed_memory
from llavakit.core.types import Batch
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint
from llavakit.model.llava import Llava
from llavakit.model.settings import ModelConfig
from llavakit.train.compiling import compile_blocks
from llavakit.train.loop import train
from llavakit.train.objectives import SFT, LossSum, Totals
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from llavakit.vision.plan import ImageConfig

PEER = Path(__file__).parent / "sft_trl_peer.py"
IMAGE = ImageConfig(kind="square", size=224, grid=14)  # 196 tokens
LAYERS, BATCH = 12, 8
WARM = 2  # steps that do not count: the second compiles what the first did not show
# What keep_freed_memory() sets, as glibc reads it from the environment.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
}
TOLERANCE = 0.02  # of a loss near 10.8: bf16 sums in another order


def write_records(folder: Path, count: int) -> None:
    """Pictures cut from photos, lognormal text (median 100 words, sigma 1), the second half of it learned."""
    dice = torch.Generator().manual_seed(0)
    lengths = (100 * torch.randn(count, generator=dice).exp()).clamp(16, 1500).int().tolist()
    ours, theirs = [], []
    for number, length in enumerate(lengths):
        name = write_picture(folder, number, dice)
        words = draw_words(length, dice)
        asked, said = " ".join(words[: length // 2]), " ".join(words[length // 2 :])
        talk = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": said}]
        ours.append({"id": str(number), "image": name, "conversations": talk})
        prompt, completion = f"<s><image>\n{asked}\n", f"{said}<|im_end|>"
        theirs.append({"prompt": prompt, "completion": completion, "image": name})
    (folder / "ours.json").write_text(json.dumps(ours))
    (folder / "trl.json").write_text(json.dumps(theirs))


def write_picture(folder: Path, number: int, dice: torch.Generator) -> str:
    """A piece of a photo as a PNG file; its name."""
    load = (photos.astronaut, photos.coffee, photos.chelsea, photos.rocket)[number % 4]
    photo = Image.fromarray(load())
    left, top = (int(torch.randint(0, side - 250, (1,), generator=dice)) for side in photo.size)
    name = f"{number}.png"
    photo.crop((left, top, left + 250, top + 250)).resize((400, 300)).save(folder / name)
    return name


def draw_words(count: int, dice: torch.Generator) -> list[str]:
    """Words of the benchmark's vocabulary, each a token."""
    return [f"w{word}" for word in torch.randint(3, 49000, (count,), generator=dice).tolist()]


def our_run(folder: Path, steps: int) -> Run:
    """Windows of one batch: each step learns from the records that TRL's batch holds."""
    return Run(
        name="ours",
        out=folder / "ours",
        train=("connector", "language"),
        precision="bf16",
        model=ModelConfig(start=folder / "model"),
        data=DataConfig(files=(folder / "ours.json",), shuffle=False, window=BATCH, tokens=16384),
        optim=OptimConfig(
            lr=LearningRates(connector=2e-5, language=2e-5), steps=steps, warmup=0.0, clip=1.0, rows=1
        ),
    )


class Stamped(SFT):
    """The objective, which also notes when each step begins to compute."""

    def __init__(self, *, compiles: bool) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._compiles = compiles

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        if self._compiles and model.compiler is None:  # `compile: true` would first take four plain steps
            compile_blocks(model)
        return super().loss(model, batch)

    def weights(self, batch: Batch) -> Totals:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())
        return super().weights(batch)


def run_ours(folder: Path, steps: int, *, compiles: bool) -> dict:
    """Seconds, losses and learned tokens of our steps. A step counts from where it begins to compute to where the
    next does, so waiting for data is in it, and one step more is run.
    """
    command = [sys.executable, "-m", "benchmarks.sft_trl", "--ours-in", str(folder), f"--steps={steps + 1}"]
    command += ["--compile"] * compiles
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "ours" / "metrics.jsonl").read_text().splitlines()][:-1]
    stamps = json.loads((folder / "stamps.json").read_text())
    return {
        "seconds": [after - before for before, after in pairwise(stamps["wall"])],
        "processor_seconds": [after - before for before, after in pairwise(stamps["processor"])],
        "losses": [row["loss"] for row in rows],
        "learned": [row["learned"] for row in rows],
        "mfu": median([row["mfu"] for row in rows]),
    }


def run_peer(python: Path, folder: Path, arguments: argparse.Namespace, *, tuned: bool) -> dict:
    """The same of TRL's."""
    words = [str(folder), f"--steps={arguments.steps + WARM}", f"--batch={BATCH}"]
    return ask_peer(python, PEER, [*words, f"--workers={arguments.peer_workers}"], tuned=tuned)


def ask_peer(python: Path, program: Path, words: list[str], *, tuned: bool) -> dict:
    """What a peer's program says in its last line; `tuned` keeps activations and freed memory."""
    command = [str(python), str(program), *words, *["--tuned"] * tuned]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment | (KEEP_MEMORY if tuned else {})
    )
    if done.returncode:
        raise SystemExit(f"{program.name} failed with exit code {done.returncode}; see its lines above")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_same(ours: dict, peer: dict) -> None:
    """Both learned the same tokens with the same loss, step by step; else the comparison means nothing."""
    if ours["learned"] != peer["learned"]:
        raise SystemExit(f"learned tokens differ: ours {ours['learned']}, peer {peer['learned']}")
    apart = max(abs(a - b) for a, b in zip(ours["losses"], peer["losses"], strict=True))
    first = f"{ours['losses'][0]:.4f} and {peer['losses'][0]:.4f}"
    print(f"losses of {len(ours['losses'])} steps: {first} in the first, at most {apart:.4f} apart")
    if apart > TOLERANCE:
        raise SystemExit(f"losses differ: ours {ours['losses']}, peer {peer['losses']}")


def rate(result: dict, clock: str = "seconds") -> float:
    """Learned tokens a second, without the first steps."""
    return sum(result["learned"][WARM:]) / sum(result[clock][WARM:])


def compare(python: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Alternating runs of the three, and the report."""
    ours, peers, tuned = [], [], []
    sides = [
        (ours, lambda: run_ours(folder, arguments.steps + WARM, compiles=arguments.compile)),
        (peers, lambda: run_peer(python, folder, arguments, tuned=False)),
        (tuned, lambda: run_peer(python, folder, arguments, tuned=True)),
    ]
    for number in range(arguments.runs):
        for results, work in sides if number % 2 == 0 else reversed(sides):
            results.append(work())
        check_same(ours[-1], peers[-1])
        check_same(ours[-1], tuned[-1])
        for clock in ("seconds", "processor_seconds"):
            found = " / ".join(f"{rate(each[-1], clock):.1f}" for each, _ in sides)
            print(f"{found} learned tokens by {clock}", flush=True)
    rates = [median([rate(result) for result in results]) for results, _ in sides]
    cheap = [median([rate(result, "processor_seconds") for result in results]) for results, _ in sides]
    report(
        "training run with pictures",
        round(rates[0], 1),
        {"name": "TRL SFTTrainer", "version": peers[0]["version"], "value": round(rates[1], 1)},
        "learned tokens/s",
        better="higher",
        runs=arguments.runs,
        ratio_tuned=round(rates[0] / rates[2], 3),
        ratio_processor=round(cheap[0] / cheap[1], 3),
        ratio_processor_tuned=round(cheap[0] / cheap[2], 3),
        mfu=round(median([result["mfu"] for result in ours]), 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, help="the python of TRL's environment")
    parser.add_argument("--peer-workers", type=int, default=0, help="TRL's processes that read data")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps that count, of eight records each")
    parser.add_argument("--compile", action="store_true", help="our side with compiled blocks")
    parser.add_argument("--ours-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours_in is not None:
        keep_freed_memory()
        stamped = Stamped(compiles=arguments.compile)
        train(our_run(arguments.ours_in, arguments.steps), overwrite=True, objective=stamped)
        stamps = {"wall": stamped.wall, "processor": stamped.processor}
        (arguments.ours_in / "stamps.json").write_text(json.dumps(stamps))
        return
    python = arguments.peer_python
    if python is None or not python.is_file():
        raise SystemExit(
            f"--peer-python={python}: no python of TRL's environment there; --help tells how to make it"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(build_model(LAYERS, IMAGE), folder / "model")
        write_records(folder, BATCH * (arguments.steps + WARM + 1))
        compare(python, folder, arguments)


if __name__ == "__main__":
    main()
