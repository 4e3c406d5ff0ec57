"""The peer's side of dpo.py: TRL's DPOTrainer on the same pairs. Runs by its own python, without llavakit.

    PYTHON benchmarks/dpo_peer.py FOLDER --steps 6 --batch 4 [--lora] [--tuned] [--float32]

FOLDER holds `model` (a transformers directory) and `trl.json` (prompt, chosen, rejected, image of each pair).
The last line is a JSON object: seconds, loss, chosen log-probability and margin of every step, learned tokens
of every batch, versions, peak memory.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from sft_trl_peer import Stamps, measured
from transformers import AutoProcessor, LlavaForConditionalGeneration
from trl import DPOConfig, DPOTrainer

LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def trainer(folder: Path, arguments: argparse.Namespace) -> tuple[DPOTrainer, Stamps]:
    """As a user sets it up: text prompts, pictures decoded when they are needed, float32 under bf16."""
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    lora = None
    if arguments.lora:
        lora = LoraConfig(r=64, lora_alpha=128, lora_dropout=0.0, target_modules=LINEAR)
    else:
        model.model.vision_tower.requires_grad_(False)
    rows = json.loads((folder / "trl.json").read_text())
    columns = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}
    images = [[str(folder / row["image"])] for row in rows]
    data = Dataset.from_dict(columns | {"images": images}).cast_column("images", List(Image()))
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=arguments.batch,
        max_steps=arguments.steps,
        max_length=None,
        beta=0.1,
        bf16=not arguments.float32,
        use_cpu=True,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        learning_rate=arguments.rate,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        # TRL's default recomputes activations, whatever the model's size.
        gradient_checkpointing=not arguments.tuned,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    stamps = Stamps()
    processor = AutoProcessor.from_pretrained(folder / "model")
    return (
        DPOTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=processor,
            callbacks=[stamps],
            peft_config=lora,
        ),
        stamps,
    )


def learned_tokens(peer: DPOTrainer, steps: int, batch: int) -> list[list[int]]:
    """[chosen, rejected] tokens of each batch that count, as its collator makes them."""
    counts = []
    for step in range(steps):
        rows = [peer.train_dataset[step * batch + number] for number in range(batch)]
        mask = peer.data_collator(rows)["completion_mask"]
        counts.append([int(half.sum()) for half in mask.chunk(2)])
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--tuned", action="store_true", help="keep activations instead of recomputing them")
    parser.add_argument("--float32", action="store_true", help="for comparing numbers, not times")
    arguments = parser.parse_args()
    peer, stamps = trainer(arguments.folder, arguments)
    peer.train()
    result = measured(stamps)  # before anything else can raise the peak
    logged = [row for row in peer.state.log_history if "loss" in row]
    result |= {
        "losses": [row["loss"] for row in logged],
        "chosen": [row["logps/chosen"] for row in logged],
        "margins": [row["rewards/margins"] for row in logged],
        "learned": learned_tokens(peer, arguments.steps, arguments.batch),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
