"""The peer's side of grpo.py: TRL's GRPOTrainer or RLOOTrainer on the same prompts. Runs by its own python.

    PYTHON benchmarks/grpo_peer.py FOLDER --steps 6 --prompts 2 --answers 8 --words 64 [--algorithm rloo]
        [--iterations 1] [--tuned] [--float32] [--uneven]

FOLDER holds `model` (a transformers directory), `trl.json` (question and image of each prompt) and `reward.py`,
whose `score(answer)` is the reward. The last line is a JSON object: seconds, loss, divergence, reward and answers
(their tokens, in the order of the prompts) of every step, versions, peak memory.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import ClassVar

import torch
from datasets import Dataset, Image, List
from sft_trl_peer import Stamps, measured
from transformers import AutoProcessor, LlavaForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

ALGORITHMS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}
# As published: GRPO's penalty is in the loss, RLOO's is taken from rewards. By default TRL 1.16 also weighs GRPO's
# by the ratio (DeepSeek-V3.2), which is another loss.
SETTINGS = {
    "grpo": {"beta": 0.04, "loss_type": "grpo", "scale_rewards": "group", "use_bias_correction_kl": False},
    "rloo": {"beta": 0.05},
}


def noting(kind: type, *, uneven: bool) -> type:
    """The trainer, which also keeps what it sampled; `uneven` ends answers after three tokens, four, and so on."""

    class Noting(kind):
        said: ClassVar[list[list[list[int]]]] = []

        def _generate_single_turn(self, *given, **named):
            found = super()._generate_single_turn(*given, **named)
            answers = found[0] if isinstance(found, tuple) else found  # GRPO also returns log-probabilities
            if uneven:
                for number, answer in enumerate(answers):
                    answer[3 + number % (len(answer) - 3) :] = [self._tokenizer.eos_token_id]
            self.said.append(answers)
            return found

    return Noting


def trainer(folder: Path, arguments: argparse.Namespace) -> tuple[GRPOTrainer, Stamps]:
    """As a user sets it up: prompts as messages, pictures decoded when they are needed, float32 under bf16."""
    sys.path.insert(0, str(folder))
    from reward import score

    def rewards(completions, **_) -> list[float]:
        return [score(completion[0]["content"]) for completion in completions]

    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    rows = json.loads((folder / "trl.json").read_text())
    prompts = [[{"role": "user", "content": row["question"]}] for row in rows]
    images = [[str(folder / row["image"])] for row in rows]
    data = Dataset.from_dict({"prompt": prompts, "images": images}).cast_column("images", List(Image()))
    settings, kind = ALGORITHMS[arguments.algorithm]
    config = settings(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=arguments.prompts * arguments.answers,
        num_generations=arguments.answers,
        num_iterations=arguments.iterations,
        max_completion_length=arguments.words,
        shuffle_dataset=False,
        max_steps=arguments.steps,
        bf16=not arguments.float32,
        use_cpu=True,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        learning_rate=arguments.rate,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        # TRL's default recomputes activations, whatever the model's size.
        gradient_checkpointing=not arguments.tuned,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **SETTINGS[arguments.algorithm],
    )
    stamps = Stamps()
    processor = AutoProcessor.from_pretrained(folder / "model", padding_side="left")
    return (
        noting(kind, uneven=arguments.uneven)(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=data,
            processing_class=processor,
            callbacks=[stamps],
        ),
        stamps,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name in ("steps", "prompts", "answers", "words"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="grpo")
    parser.add_argument("--iterations", type=int, default=1, help="steps on the answers of a round")
    parser.add_argument("--tuned", action="store_true", help="keep activations instead of recomputing them")
    parser.add_argument("--float32", action="store_true", help="for comparing numbers, not times")
    parser.add_argument("--uneven", action="store_true", help="answers of several lengths, for the same")
    arguments = parser.parse_args()
    peer, stamps = trainer(arguments.folder, arguments)
    peer.train()
    result = measured(stamps)  # before anything else can raise the peak
    logged = [row for row in peer.state.log_history if "loss" in row]
    result |= {
        "losses": [row["loss"] for row in logged],
        "kl": [row["kl"] for row in logged],
        "rewards": [row["reward"] for row in logged if "reward" in row],  # told once a round
        "said": peer.said,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
