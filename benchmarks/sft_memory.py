"""Peak memory of one training step: our packed row against the padded batch of `transformers`, same samples.

Each side runs one forward and backward pass in a process of its own and says the most memory that process ever had
resident (VmHWM: interpreter, libraries, weights and gradients included, no optimizer). Eight samples of one image
and up to 2,048 tokens: lengths as LLaVA's data mixes them with the longest at 2,048 (`mixed`), and all at 2,048,
where nothing is padding (`full`). SmolLM2's width with 12 layers, float32 weights, bf16 autocast, frozen tower.

    python -m benchmarks.sft_memory [--tokens 2048] [--samples 8]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration
from transformers import __version__ as transformers_version

from benchmarks.machine import report
from benchmarks.sft import build_model, make_samples, pad_batch
from llavakit.core.memory import keep_freed_memory
from llavakit.data.encode import Sample
from llavakit.data.pack import collate
from llavakit.model import checkpoint
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.freezing import train_only
from llavakit.train.loop import train_step
from llavakit.train.objectives import SFT
from llavakit.vision.plan import ImageConfig

IMAGE = ImageConfig(kind="square", size=224, grid=14)  # 196 tokens
LAYERS = 12


def draw(mix: str, count: int, tokens: int) -> tuple[list[Sample], torch.Tensor]:
    """Samples of at most `tokens` tokens; the first of a mixed batch has as many as that."""
    dice = torch.Generator().manual_seed(0)
    most = tokens - 1 - IMAGE.grid**2
    lengths = [most] * count
    if mix == "mixed":
        drawn = (100 * torch.randn(count - 1, generator=dice).exp()).clamp(16, most).int().tolist()
        lengths = [most, *drawn]
    return make_samples(lengths, dice, IMAGE)


def our_step(folder: Path, samples: list[Sample], pixels: torch.Tensor, *, recompute: bool) -> float:
    model = checkpoint.load(folder, template_name="brief").model
    train_only(model, ("connector", "language"))
    model.train()
    if recompute:
        checkpoint_activations(model)
    loss, _ = train_step(model, SFT(), [collate(samples, pixels.split(1))], precision="bf16")
    return loss


def peer_step(folder: Path, samples: list[Sample], pixels: torch.Tensor, *, recompute: bool) -> float:
    hf = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    hf.model.vision_tower.requires_grad_(False)
    hf.train()
    if recompute:
        hf.gradient_checkpointing_enable()
    inputs = pad_batch(samples, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = hf(**inputs, num_items_in_batch=(inputs["labels"] != -100).sum(), use_cache=False).loss
    loss.backward()
    return float(loss.detach())


def peak() -> int:
    """The most bytes this process had resident so far."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def measure(folder: Path, arguments: argparse.Namespace, side: str, mix: str, *, recompute: bool) -> dict:
    """Peak and loss of one side's step."""
    command = [sys.executable, "-m", "benchmarks.sft_memory", f"--child={folder}", f"--side={side}"]
    command += [f"--mix={mix}", f"--tokens={arguments.tokens}", f"--samples={arguments.samples}"]
    done = subprocess.run(
        command + ["--recompute"] * recompute, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    how = "recomputing" if recompute else "keeping activations"
    print(f"{mix}, {how}: {side} {found['peak'] / 2**30:.2f} GiB, loss {found['loss']:.4f}", flush=True)
    return found


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """(ours, peer) in GiB of every case; the losses of the same samples must agree.

    The peer's batch has one shape, padded or full, and is measured once.
    """
    cases = {}
    for recompute in (False, True):
        peer = measure(folder, arguments, "peer", "mixed", recompute=recompute)
        for mix in ("mixed", "full"):
            ours = measure(folder, arguments, "ours", mix, recompute=recompute)
            if mix == "mixed" and abs(ours["loss"] - peer["loss"]) > 0.02:
                raise SystemExit(f"losses differ: ours {ours['loss']}, peer {peer['loss']}")
            cases[mix + "_recomputing" * recompute] = (ours["peak"] / 2**30, peer["peak"] / 2**30)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=8)
    for hidden in ("--child", "--side", "--mix"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        step = {"ours": our_step, "peer": peer_step}[arguments.side]
        if arguments.side == "ours":
            keep_freed_memory()  # as the command line does
        samples, pixels = draw(arguments.mix, arguments.samples, arguments.tokens)
        loss = step(Path(arguments.child), samples, pixels, recompute=arguments.recompute)
        print(json.dumps({"loss": loss, "peak": peak()}))
        return
    with tempfile.TemporaryDirectory() as name:
        checkpoint.save(build_model(LAYERS, IMAGE), Path(name) / "model")
        cases = compare(Path(name) / "model", arguments)
    ours, peer = cases["mixed"]
    report(
        "peak memory of a step",
        round(ours, 2),
        {"name": "transformers LlavaForConditionalGeneration, padded", "version": transformers_version,
         "value": round(peer, 2)},
        "GiB",
        better="lower",
        runs=1,
        **{f"ratio_{name}": round(theirs / mine, 2) for name, (mine, theirs) in cases.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
