"""The peer's side of sft_trl.py: TRL's SFTTrainer on the same records. Runs by its own python, without llavakit.

    PYTHON benchmarks/sft_trl_peer.py FOLDER --steps 6 --batch 8 [--tuned] [--workers 0]

FOLDER holds `model` (a transformers directory) and `trl.json` (prompt, completion, image of each record). The last
line is a JSON object: seconds, processor's seconds and loss of every step, learned tokens of every batch, versions,
peak memory.
"""

import argparse
import json
import resource
import time
from itertools import pairwise
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset, Image, List
from transformers import AutoProcessor, LlavaForConditionalGeneration, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Stamps(TrainerCallback):
    """When training began, and when each step ended: waiting for data lies in between."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def on_train_begin(self, args, state, control, **_) -> None:
        self.stamp()

    def on_step_end(self, args, state, control, **_) -> None:
        self.stamp()

    def stamp(self) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())


def trainer(folder: Path, arguments: argparse.Namespace) -> tuple[SFTTrainer, Stamps]:
    """As a user sets it up: prompt and completion, pictures decoded when they are needed, float32 under bf16."""
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    rows = json.loads((folder / "trl.json").read_text())
    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion")}
    images = [[str(folder / row["image"])] for row in rows]
    data = Dataset.from_dict(columns | {"images": images}).cast_column("images", List(Image()))
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=arguments.batch,
        max_steps=arguments.steps,
        max_length=None,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        # TRL's default recomputes activations, whatever the model's size.
        gradient_checkpointing=not arguments.tuned,
        dataloader_num_workers=arguments.workers,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    stamps = Stamps()
    processor = AutoProcessor.from_pretrained(folder / "model")
    return (
        SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=processor, callbacks=[stamps]
        ),
        stamps,
    )


def learned_tokens(peer: SFTTrainer, steps: int, batch: int) -> list[int]:
    """Labels of each batch that count, as its collator makes them; the first position is predicted by nothing."""
    counts = []
    for step in range(steps):
        rows = [peer.train_dataset[step * batch + number] for number in range(batch)]
        counts.append(int((peer.data_collator(rows)["labels"][:, 1:] != -100).sum()))
    return counts


def measured(stamps: Stamps) -> dict:
    """What every peer tells of its training: seconds of each step, peak memory, versions."""
    return {
        "seconds": between(stamps.wall),
        "processor_seconds": between(stamps.processor),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "version": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


def between(stamps: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(stamps)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--tuned", action="store_true", help="keep activations instead of recomputing them")
    arguments = parser.parse_args()
    peer, stamps = trainer(arguments.folder, arguments)
    peer.train()
    result = measured(stamps)  # before anything else can raise the peak
    result |= {
        "losses": [row["loss"] for row in peer.state.log_history if "loss" in row],
        "learned": learned_tokens(peer, arguments.steps, arguments.batch),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
