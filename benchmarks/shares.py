"""Memory of ranks that share a model: each of two, against one process that has all of it.

Every side is `llavakit train`: it loads a checkpoint of random numbers in bf16, trains one step of two short rows
of text, and saves model and training state. Told is the most memory that a process ever had resident (VmHWM:
interpreter, libraries and mapped files included), the larger of the two ranks'.

    python -m benchmarks.shares                # a decoder of a billion weights: 18 GB for one process
    python -m benchmarks.shares --layers 6 --width 1024
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.machine import report
from benchmarks.packing import write_records
from benchmarks.sft import VOCAB, build_model
from benchmarks.sft_memory import peak
from llavakit.cli.entry import app
from llavakit.core import config as settings
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava
from llavakit.model.settings import ConnectorConfig, ModelConfig
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig, ParallelConfig

HEAD = 64  # width of an attention head
MOST = 0.65  # of one process's
RUN, PEAK = "run.yaml", "peak{}.json"


def make_run(folder: Path, ranks: int) -> Run:
    """A step of two rows, cut over the ranks where there are several."""
    return Run(
        name=f"ranks{ranks}",
        out=folder / f"ranks{ranks}" / "out",
        train=("connector", "language"),
        precision="bf16",
        model=ModelConfig(start=folder / "model"),
        data=DataConfig(files=(folder / "data.jsonl",), tokens=256, shuffle=False),
        checkpointing=True,
        optim=OptimConfig(lr=LearningRates(language=1e-5), steps=1, rows=2),
        parallel=ParallelConfig(mode="fsdp"),
    )


def write_model(folder: Path, layers: int, width: int) -> float:
    """The checkpoint that all sides begin with; returns the billions of weights of its decoder."""
    made = build_model(layers=1)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=width // HEAD, num_key_value_heads=width // HEAD // 4, tie_word_embeddings=True,
        pad_token_id=None, max_position_embeddings=8192,
    )  # fmt: skip
    language = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tower = made.model.tower
    made.model = Llava(tower, build_connector(ConnectorConfig(), tower.width, width), language)
    checkpoint.save(made, folder)
    return sum(parameter.numel() for parameter in language.parameters()) / 1e9


def measure(folder: Path, ranks: int) -> float:
    """The largest peak of the ranks, in GB."""
    run = make_run(folder, ranks)
    run.out.parent.mkdir()
    settings.save(run, run.out.parent / RUN)
    side = ["benchmarks.shares", "--side", str(run.out.parent)]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", *side]
    subprocess.run([sys.executable, *(words if ranks > 1 else ["-m", *side])], check=True)
    peaks = [json.loads(file.read_text()) for file in run.out.parent.glob(PEAK.format("*"))]
    return float(max(peaks)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side is not None:
        # Not `train()`: what the command line asks of malloc is not the same for one process and for ranks.
        app(["train", str(given.side / RUN)], standalone_mode=False)
        (given.side / PEAK.format(os.environ.get("RANK", "0"))).write_text(json.dumps(peak()))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        billions = write_model(folder / "model", given.layers, given.width)
        write_records(folder / "data.jsonl", 64)
        two, one = (measure(folder, ranks) for ranks in (2, 1))
    report(
        "shares",
        two,
        {"name": "one process", "value": one},
        "GB",
        better="lower",
        runs=1,
        billions=billions,
        most=MOST,
    )


if __name__ == "__main__":
    main()
