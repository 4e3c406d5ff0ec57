"""A whole GRPO run, files to weights: `train()` against the GRPOTrainer of TRL, same model, same prompts.

The model is SmolLM2's width with 12 layers behind a small frozen CLIP tower, 196 image tokens. A step is two
prompts with eight answers of 64 tokens each: sampled, scored by the same function, compared, and learned from, with
a KL penalty against the start. Both sides read the same PNG files and the same text in the same order, in bf16, and
learn the whole decoder and connector. The weights are random, so practically no answer ends by itself: both sides
sample and learn the same number of tokens, which is checked, as is that rewards are what chance gives. What both
compute from the same answers is held together by `tests/train/test_trl.py` (losses, rewards and divergences in
float32). Timed is a step with its rollouts; the first one warms up. Building the model and saving it are left out.
Each run is a process of its own.

Two of our sides show where the time goes: `shared` samples with the modules that learn, `ours` with the engine's
own copy of the weights. The peer is run as a user gets it (transformers' `generate`; vLLM needs a GPU) and `tuned`,
with what a user could set: activations kept (TRL recomputes them by default) and the memory setting that our
command line makes.

TRL must live in an environment of its own (see benchmarks/dpo.py):

    python -m benchmarks.grpo --peer-python trl-venv/bin/python [--runs 3] [--steps 4] [--words 64]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.dpo import IMAGES, LAYERS, RATE
from benchmarks.machine import in_turn, median, report
from benchmarks.sft import build_model
from benchmarks.sft_trl import ask_peer, draw_words, write_picture
from llavakit.align.opening import open_policy
from llavakit.core.memory import keep_freed_memory
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint
from llavakit.model.settings import ModelConfig
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

PEER = Path(__file__).parent / "grpo_peer.py"
PROMPTS, ANSWERS, WORDS = 2, 8, 64
OURS = ("ours", "shared")
REWARD = '''"""The share of an answer's words that have an even number."""


def score(answer, **_):
    numbers = [int(word[1:]) for word in answer.split() if word[1:].isdigit()]
    return sum(number % 2 == 0 for number in numbers) / max(1, len(numbers))
'''
FEW = 0.05  # of the tokens: answers that end by chance
CHANCE = 5  # by how many deviations the mean reward of a step may be off 1/2


def write_prompts(folder: Path, count: int) -> None:
    """A picture and a question of 30 words each, for both sides; and the reward function."""
    dice = torch.Generator().manual_seed(0)
    ours, theirs = [], []
    for number in range(count):
        name = write_picture(folder, number, dice)
        asked = " ".join(draw_words(30, dice))
        talk = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": "w3"}]
        ours.append({"id": str(number), "image": name, "conversations": talk})
        theirs.append({"question": asked, "image": name})
    (folder / "ours.json").write_text(json.dumps(ours))
    (folder / "trl.json").write_text(json.dumps(theirs))
    (folder / "reward.py").write_text(REWARD)


def our_run(
    folder: Path,
    side: str,
    steps: int,
    words: int,
    *,
    precision: str = "bf16",
    rate: float = RATE,
    **policy: object,
) -> Run:
    """A step a round, as TRL has it by default. `policy` overrides settings of that name."""
    rewards = {"terms": {"even": {"kind": "python", "function": f"{folder / 'reward.py'}:score"}}}
    given = {
        "prompts": PROMPTS, "answers": ANSWERS, "max_tokens": words, "page_every": 0, "rewards": rewards,
        "engine": "shared" if side == "shared" else "copy",
    }  # fmt: skip
    return Run(
        name=side,
        out=folder / side,
        train=("connector", "language"),
        precision=precision,
        model=ModelConfig(start=folder / "model"),
        data=DataConfig(files=(folder / "ours.json",), shuffle=False, tokens=32768),
        policy=PolicyConfig.model_validate(given | policy),
        optim=OptimConfig(lr=LearningRates(connector=rate, language=rate), steps=steps, warmup=0.0, clip=1.0),
    )


def run_ours(folder: Path, side: str, steps: int, words: int) -> dict:
    """Seconds, rewards and learned tokens of our steps."""
    command = [sys.executable, "-m", "benchmarks.grpo", "--ours-in", str(folder), "--side", side]
    subprocess.run([*command, f"--steps={steps}", f"--words={words}"], check=True, stdout=subprocess.DEVNULL)
    rows = read_metrics(folder / side / "metrics.jsonl")
    return {
        "seconds": [row["seconds"] for row in rows],
        "sampling": [row["rollout_seconds"] for row in rows],
        "rewards": [row["reward"] for row in rows],
        "learned": [round(row["length"] * row["answers"]) for row in rows],
    }


def run_peer(
    python: Path, folder: Path, steps: int, words: int, *more: str, tuned: bool = False, rate: float = RATE
) -> dict:
    """The same of TRL's; `more` are words for its program."""
    asked = [str(folder), f"--steps={steps}", f"--prompts={PROMPTS}", f"--answers={ANSWERS}"]
    found = ask_peer(python, PEER, [*asked, f"--words={words}", f"--rate={rate}", *more], tuned=tuned)
    return found | {"learned": [sum(map(len, answers)) for answers in found["said"]]}


def check_same(results: dict[str, dict], words: int) -> None:
    """All sides sampled and learned as many tokens, and got for them what chance gives."""
    whole = PROMPTS * ANSWERS * words
    for side, result in results.items():
        if min(result["learned"]) < (1 - FEW) * whole:
            raise SystemExit(f"{side} learned {result['learned']} tokens in its steps, not {whole}")
        off = max(abs(reward - 0.5) for reward in result["rewards"])
        if off > CHANCE * 0.5 / whole**0.5:  # every token is a fair coin
            raise SystemExit(f"{side} was rewarded by {result['rewards']}, which is not chance")


def rate(result: dict) -> float:
    """Answers a second, sampled and learned from, without the first step."""
    return PROMPTS * ANSWERS * len(result["seconds"][1:]) / sum(result["seconds"][1:])


def compare(python: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Alternating runs of the four, and the report."""
    steps, words, results = arguments.steps + 1, arguments.words, dict[str, dict]()

    def measure(side: str) -> float:
        if side in OURS:
            results[side] = run_ours(folder, side, steps, words)
        else:
            results[side] = run_peer(python, folder, steps, words, tuned=side == "trl tuned")
        print(f"{side} {rate(results[side]):.2f} answers/s", flush=True)
        return rate(results[side])

    sides = {side: lambda _, side=side: measure(side) for side in (*OURS, "trl", "trl tuned")}
    rates = {side: median(values) for side, values in in_turn(sides, arguments.runs).items()}
    check_same(results, words)
    sampling = sum(results["ours"]["sampling"][1:]) / sum(results["ours"]["seconds"][1:])
    report(
        f"GRPO, {ANSWERS} answers of {words} tokens a prompt",
        round(rates["ours"], 2),
        {"name": "TRL GRPOTrainer", "version": results["trl"]["version"], "value": round(rates["trl"], 3)},
        "answers/s",
        better="higher",
        runs=arguments.runs,
        ratio_tuned=round(rates["ours"] / rates["trl tuned"], 2),
        ratio_shared_weights=round(rates["shared"] / rates["trl"], 2),
        share_sampling=round(sampling, 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, help="the python of TRL's environment")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps that count, of sixteen answers each")
    parser.add_argument("--words", type=int, default=WORDS, help="tokens of an answer")
    parser.add_argument("--ours-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=OURS, default="ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours_in is not None:
        keep_freed_memory()
        run = our_run(arguments.ours_in, arguments.side, arguments.steps, arguments.words)
        train(run, overwrite=True, policy=open_policy)
        return
    python = arguments.peer_python
    if python is None or not python.is_file():
        raise SystemExit(
            f"--peer-python={python}: no python of TRL's environment there; see the head of benchmarks/dpo.py"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(build_model(LAYERS, IMAGES[196]), folder / "model")
        write_prompts(folder, PROMPTS * (arguments.steps + 2))
        compare(python, folder, arguments)


if __name__ == "__main__":
    main()
