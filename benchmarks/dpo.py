"""A whole DPO run, files to weights: `train()` against the DPOTrainer of TRL, same model, same pairs.

The model is SmolLM2's width with 12 layers behind a small frozen CLIP tower, 196 or 576 image tokens. Both
sides read the same PNG files and the same text, four pairs a step in the same order, in bf16, and learn the
same tokens: the whole decoder and connector against a copy of them, or adapters of rank 64. They must agree on
the count of learned tokens, and on the loss and the chosen answers' log-probability of every step. Timed is a
step with its waiting for data; the first one warms up. Building the model and saving it are left out. Each run
is a process of its own.

Three of our sides show where the time goes: `apart` gives every answer a picture and a prompt of its own, as
TRL does; `ours` has them once a pair; `stored` also looks its reference up (preference.reference), which a
second epoch, or a second run on the same pairs, has for nothing. The peer is run as a user gets it and `tuned`,
with what a user could set: activations kept (TRL recomputes them by default) and the memory setting that our
command line makes.

TRL must live in an environment of its own:

    python -m venv trl-venv
    trl-venv/bin/pip install torch==2.13.0 transformers==5.23.0 'trl==1.16.*' peft datasets accelerate pillow
    python -m benchmarks.dpo --peer-python trl-venv/bin/python [--runs 3] [--steps 6] [--learn full,lora]
        [--tokens 196,576]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import in_turn, median, report
from benchmarks.sft import build_model
from benchmarks.sft_trl import ask_peer, draw_words, write_picture
from llavakit.core.memory import keep_freed_memory
from llavakit.core.types import Segment
from llavakit.data import encode
from llavakit.data.encode import Sample
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint
from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.pair_settings import PreferenceConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from llavakit.vision.plan import ImageConfig

PEER = Path(__file__).parent / "dpo_peer.py"
IMAGES = {
    196: ImageConfig(kind="square", size=224, grid=14),
    576: ImageConfig(kind="square", size=336, grid=24),
}
LAYERS, BATCH, RATE = 12, 4, 1e-5
OURS = ("ours", "apart", "stored")
TOLERANCE = 0.02  # of a loss near log 2: bf16 sums in another order
CLOSE = 0.002  # of a log-probability, as a share of it


def write_pairs(folder: Path, count: int) -> None:
    """A picture, a question of 30 words, and two answers of lognormal length (median 60 words, sigma 0.6)."""
    dice = torch.Generator().manual_seed(0)
    lengths = (60 * (0.6 * torch.randn(count, 2, generator=dice)).exp()).clamp(8, 300).int().tolist()
    ours, theirs = [], []
    for number, pair in enumerate(lengths):
        name = write_picture(folder, number, dice)
        asked = " ".join(draw_words(30, dice))
        chosen, rejected = (" ".join(draw_words(length, dice)) for length in pair)
        ours.append({"image": name, "prompt": f"<image>\n{asked}", "chosen": chosen, "rejected": rejected})
        theirs.append(
            {
                "prompt": f"<s><image>\n{asked}\n", "chosen": f"{chosen}<|im_end|>",
                "rejected": f"{rejected}<|im_end|>", "image": name,
            }
        )  # fmt: skip
    (folder / "ours.json").write_text(json.dumps(ours))
    (folder / "trl.json").write_text(json.dumps(theirs))


def our_run(folder: Path, side: str, learn: str, steps: int, precision: str = "bf16") -> Run:
    """Windows of one batch: each step learns from the pairs that TRL's batch holds."""
    lora = LoraSettings(r=64, alpha=128, dropout=0.0) if learn == "lora" else None
    return Run(
        name=side,
        out=folder / side,
        train=("language",) if lora else ("connector", "language"),
        precision=precision,
        model=ModelConfig(start=folder / "model", lora=lora),
        data=DataConfig(files=(folder / "ours.json",), shuffle=False, window=BATCH, tokens=32768),
        preference=PreferenceConfig(reference=folder / "reference" if side == "stored" else None),
        optim=OptimConfig(
            lr=LearningRates(connector=RATE, language=RATE), steps=steps, warmup=0.0, clip=1.0, rows=1
        ),
    )


def join_apart(samples: list[Sample]) -> Sample:
    """In the place of `encode.join`: every answer with a prompt and pictures of its own."""
    ids: list[int] = []
    segments: list[Segment] = []
    for sample in samples:
        segments.append(Segment(len(ids), len(ids) + sample.num_tokens))
        ids += sample.ids
    weights = tuple(weight for sample in samples for weight in sample.weights)
    media = tuple(item for sample in samples for item in sample.media)
    return Sample(tuple(ids), weights, tuple(segments), media)


def run_ours(folder: Path, side: str, learn: str, steps: int) -> dict:
    """Seconds, losses, chosen log-probabilities and learned tokens of our steps."""
    command = [sys.executable, "-m", "benchmarks.dpo", "--ours-in", str(folder), "--side", side]
    command += ["--learn", learn, f"--steps={steps}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_ours(folder / side)


def read_ours(out: Path) -> dict:
    """What our run's metrics say."""
    rows = read_metrics(out / "metrics.jsonl")
    columns = {"seconds": "seconds", "losses": "loss", "learned": "learned", "chosen": "logprob_chosen"}
    return {name: [row[column] for row in rows] for name, column in columns.items()}


def run_peer(
    python: Path, folder: Path, learn: str, steps: int, *, tuned: bool = False, **more: bool
) -> dict:
    """The same of TRL's. `float32=True` is for comparing numbers."""
    words = [str(folder), f"--steps={steps}", f"--batch={BATCH}", f"--rate={RATE}"]
    words += ["--lora"] * (learn == "lora") + [f"--{name}" for name, wanted in more.items() if wanted]
    return ask_peer(python, PEER, words, tuned=tuned)


def check_same(ours: dict, peer: dict, *, tolerance: float = TOLERANCE, close: float = CLOSE) -> None:
    """Both learned the same tokens with the same losses, step by step; else the comparison means nothing."""
    counts = [sum(both) for both in peer["learned"]]
    if ours["learned"] != counts:
        raise SystemExit(f"learned tokens differ: ours {ours['learned']}, peer {counts}")
    apart = max(abs(a - b) for a, b in zip(ours["losses"], peer["losses"], strict=True))
    theirs = [BATCH * mean / both[0] for mean, both in zip(peer["chosen"], peer["learned"], strict=True)]
    off = max(abs(a / b - 1) for a, b in zip(ours["chosen"], theirs, strict=True))
    print(f"losses at most {apart:.5f} apart, chosen log-probabilities at most {off:.2%}", flush=True)
    if apart > tolerance or off > close:
        raise SystemExit(f"they differ: ours {ours}, peer {peer}")


def rate(result: dict) -> float:
    """Pairs a second, without the first step."""
    return BATCH * len(result["seconds"][1:]) / sum(result["seconds"][1:])


def compare(python: Path, folder: Path, arguments: argparse.Namespace, learn: str, tokens: int) -> None:
    """Alternating runs of the five, and the report."""
    steps, results = arguments.steps + 1, dict[str, dict]()

    def measure(side: str) -> float:
        results[side] = (
            run_ours(folder, side, learn, steps)
            if side in OURS
            else run_peer(python, folder, learn, steps, tuned=side == "trl tuned")
        )
        print(f"{learn}, {tokens} image tokens: {side} {rate(results[side]):.2f} pairs/s", flush=True)
        return rate(results[side])

    sides = {side: lambda _, side=side: measure(side) for side in (*OURS, "trl", "trl tuned")}
    rates = {side: median(values) for side, values in in_turn(sides, arguments.runs).items()}
    for side in OURS:
        check_same(results[side], results["trl"])
    report(
        f"DPO, {learn}, {tokens} image tokens",
        round(rates["ours"], 2),
        {"name": "TRL DPOTrainer", "version": results["trl"]["version"], "value": round(rates["trl"], 3)},
        "pairs/s",
        better="higher",
        runs=arguments.runs,
        ratio_tuned=round(rates["ours"] / rates["trl tuned"], 2),
        ratio_without_sharing=round(rates["apart"] / rates["trl"], 2),
        ratio_stored_reference=round(rates["stored"] / rates["trl"], 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, help="the python of TRL's environment")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps that count, of four pairs each")
    parser.add_argument("--learn", default="full,lora", help="full, lora or both")
    parser.add_argument("--tokens", default="196,576", help="image tokens")
    parser.add_argument("--ours-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=OURS, default="ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours_in is not None:
        keep_freed_memory()
        if arguments.side == "apart":
            encode.join = join_apart
        train(our_run(arguments.ours_in, arguments.side, arguments.learn, arguments.steps), overwrite=True)
        return
    python = arguments.peer_python
    if python is None or not python.is_file():
        raise SystemExit(
            f"--peer-python={python}: no python of TRL's environment there; --help tells how to make it"
        )
    for tokens in map(int, arguments.tokens.split(",")):
        for learn in arguments.learn.split(","):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                checkpoint.save(build_model(LAYERS, IMAGES[tokens]), folder / "model")
                write_pairs(folder, BATCH * (arguments.steps + 2))
                compare(python, folder, arguments, learn, tokens)


if __name__ == "__main__":
    main()
