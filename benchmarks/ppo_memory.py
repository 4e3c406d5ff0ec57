"""Peak memory of a PPO run with four roles against an SFT run with the same adapters on the same model.

Policy, value, reward and reference are adapters of rank 64 on one base, in packed rows of the same budget, bf16.
Each run is a process of its own, files to checkpoint, and says the most memory that it ever had resident (VmHWM:
interpreter, libraries, weights, gradients, optimizer, pictures). Logits of learned tokens take much of it, so both
sides have the same pictures and questions, and answers of as many tokens: a fifth of a row is learned. SmolLM2's
width with 12 layers, 196 image tokens.
The sampler answers with the modules that learn (`shared`), or with a copy of the weights for its fast decoder
(`copy`), which is one more model in memory and is counted apart.

    python -m benchmarks.ppo_memory [--tokens 2048] [--steps 3]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import dpo, grpo
from benchmarks.machine import report
from benchmarks.sft import build_model
from benchmarks.sft_memory import peak
from benchmarks.sft_trl import draw_words
from llavakit.align.opening import open_policy
from llavakit.core.memory import keep_freed_memory
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint
from llavakit.model.settings import LoraSettings, ModelConfig
from llavakit.train.loop import train
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.reward_settings import RewardModelConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig

LORA = LoraSettings(r=64, alpha=128, dropout=0.0)
RATE = 1e-5
PROMPTS, ANSWERS, WORDS = 8, 2, 32
MOST = 1.35  # times SFT's


def make_run(folder: Path, side: str, arguments: argparse.Namespace) -> Run:
    """The run of a side, on the side's own data."""
    data = DataConfig(files=(folder / side / "ours.json",), shuffle=False, tokens=arguments.tokens)
    run = Run(
        name=side,
        out=folder / f"run-{side}",
        train=("language",),
        precision="bf16",
        model=ModelConfig(start=folder / "model", lora=LORA),
        data=data,
        optim=OptimConfig(lr=LearningRates(language=RATE), steps=arguments.steps, warmup=0.0),
    )
    if side == "reward":
        return run.model_copy(update={"train": ("language", "score"), "reward": RewardModelConfig()})
    if side == "sft":
        return run
    given = {
        "algorithm": "ppo", "prompts": PROMPTS, "answers": ANSWERS, "max_tokens": WORDS, "engine": side,
        "page_every": 0, "rewards": {"terms": {"rm": {"model": str(folder / "run-reward")}}},
    }  # fmt: skip
    return run.model_copy(update={"policy": PolicyConfig.model_validate(given)})


def write_answered(folder: Path, count: int) -> None:
    """The prompts, each with an answer of as many words as PPO samples to it."""
    grpo.write_prompts(folder, count)
    dice = torch.Generator().manual_seed(1)
    rows = json.loads((folder / "ours.json").read_text())
    for row in rows:
        row["conversations"][-1]["value"] = " ".join(draw_words(ANSWERS * WORDS, dice))
    (folder / "ours.json").write_text(json.dumps(rows))


def write_data(folder: Path, arguments: argparse.Namespace) -> None:
    """Pairs, records and prompts, as many as the runs read."""
    writers = {
        "reward": dpo.write_pairs,
        "sft": write_answered,
        "shared": grpo.write_prompts,
        "copy": grpo.write_prompts,
    }
    for side, write in writers.items():
        (folder / side).mkdir()
        write(folder / side, 16 * arguments.steps)


def measure(folder: Path, side: str, arguments: argparse.Namespace) -> float:
    """GiB of a side's run at its peak."""
    command = [sys.executable, "-m", "benchmarks.ppo_memory", f"--child={folder}", f"--side={side}"]
    command += [f"--tokens={arguments.tokens}", f"--steps={arguments.steps}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["peak"] / 2**30
    print(f"{side}: {found:.2f} GiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048, help="of a packed row")
    parser.add_argument("--steps", type=int, default=3)
    for hidden in ("--child", "--side"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        keep_freed_memory()  # as the command line does
        run = make_run(Path(arguments.child), arguments.side, arguments)
        train(run, policy=open_policy if run.policy is not None else None)
        print(json.dumps({"peak": peak()}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(build_model(dpo.LAYERS, dpo.IMAGES[196]), folder / "model")
        write_data(folder, arguments)
        found = {side: measure(folder, side, arguments) for side in ("reward", "sft", "shared", "copy")}
    report(
        "peak memory of PPO with four roles",
        round(found["shared"], 2),
        {"name": "SFT with the same adapters", "value": round(found["sft"], 2)},
        "GiB",
        better="lower",
        runs=1,
        times_sft=round(found["shared"] / found["sft"], 3),
        times_sft_with_a_copy_for_the_sampler=round(found["copy"] / found["sft"], 3),
        at_most=MOST,
    )


if __name__ == "__main__":
    main()
