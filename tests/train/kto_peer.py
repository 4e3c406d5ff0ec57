"""TRL's KTOTrainer on single answers with pictures. Runs by its own python, without llavakit.

    PYTHON tests/train/kto_peer.py FOLDER --steps 4 --batch 4 --rate 1e-3

FOLDER holds `model` and `kto.json` (prompt, completion, label, image of each answer). The last line is a JSON
object: loss and divergence of every step.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset, Image, List
from transformers import AutoProcessor, LlavaForConditionalGeneration
from trl import KTOConfig, KTOTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    arguments = parser.parse_args()
    folder = arguments.folder
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    rows = json.loads((folder / "kto.json").read_text())
    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion", "label")}
    images = [[str(folder / row["image"])] for row in rows]
    data = Dataset.from_dict(columns | {"images": images}).cast_column("images", List(Image()))
    config = KTOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=arguments.batch, max_steps=arguments.steps,
        max_length=None, beta=0.5, desirable_weight=1.5, undesirable_weight=0.5, bf16=False, use_cpu=True,
        optim="adamw_torch_fused", max_grad_norm=1.0, learning_rate=arguments.rate, lr_scheduler_type="cosine",
        warmup_steps=0, gradient_checkpointing=False, train_sampling_strategy="sequential", logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    processor = AutoProcessor.from_pretrained(folder / "model")
    peer = KTOTrainer(model=model, args=config, train_dataset=data, processing_class=processor)
    peer.train()
    logged = [row for row in peer.state.log_history if "loss" in row]
    print(json.dumps({name: [row[name] for row in logged] for name in ("loss", "kl")}), flush=True)


if __name__ == "__main__":
    main()
