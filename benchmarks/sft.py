"""One training step: our packed row against the padded batch of `transformers`, same weights, same samples.

The peer is what HF Trainer and TRL 1.16 run for vision-language models: LlavaForConditionalGeneration on a batch
padded to its longest sample, the language head on every position, labels -100 outside the answers, the loss
divided by the number of labels. Both sides: SmolLM2-135M's shape, a small CLIP tower (frozen), 64 image tokens,
lognormal text lengths, bf16 autocast, gradient clipping, fused AdamW.

    python -m benchmarks.sft [--runs 5] [--samples 8]
    python -m benchmarks.sft --compile      # against our own step without compiled blocks
    python -m benchmarks.sft --alone plain  # or compiled: what our step uses of the peak, and nobody beside it
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers import __version__ as transformers_version

from benchmarks.machine import alternate, facts, matmul_peak, median, report
from llavakit.core.memory import keep_freed_memory
from llavakit.core.types import IMAGE_ID, Batch, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate
from llavakit.model import checkpoint
from llavakit.model.card import Card
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava
from llavakit.model.settings import ConnectorConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.text.tokenizer import Tokenizer
from llavakit.train.compiling import compile_blocks
from llavakit.train.flops import StepFlops
from llavakit.train.freezing import train_only
from llavakit.train.gradients import clip_gradients
from llavakit.train.loop import train_step
from llavakit.train.objectives import SFT
from llavakit.train.optim import build_optimizer
from llavakit.train.settings import OptimConfig
from llavakit.vision.plan import ImageConfig, plan_image

VOCAB, IMAGE_TOKEN = 49152, 49151
IMAGE = ImageConfig(kind="square", size=224, grid=8)


def build_model(layers: int = 30, image: ImageConfig = IMAGE) -> checkpoint.Checkpoint:
    """SmolLM2-135M's shape behind a CLIP tower of 6 layers, width 384; random weights. Words are `w0`, `w1`, ..."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=image.size,
        patch_size=image.size // image.grid,
    )
    text = LlamaConfig(
        vocab_size=VOCAB, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, pad_token_id=None, max_position_embeddings=8192,
    )  # fmt: skip
    special = {"<s>": 1, "<|im_end|>": 2, "<image>": IMAGE_TOKEN}
    words = {f"w{i}": i for i in range(VOCAB) if i not in special.values()} | special
    backend = Backend(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>")
    hf.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tower = ViTTower(CLIPVisionModel(vision), TowerConfig(path="small"), image)
    model = Llava(tower, build_connector(ConnectorConfig(), 384, 576), LlamaForCausalLM(text))
    card = Card(tower=TowerConfig(path="small"), image=image, template="brief")
    return checkpoint.Checkpoint(model, Tokenizer(hf), card)


def draw_samples(count: int, seed: int) -> tuple[list[Sample], torch.Tensor]:
    """Samples of one image and lognormal text (median 100 tokens, sigma 1), the second half of it learned."""
    dice = torch.Generator().manual_seed(seed)
    lengths = (100 * torch.randn(count, generator=dice).exp()).clamp(16, 1500).int().tolist()
    return make_samples(lengths, dice, IMAGE)


def make_samples(
    lengths: list[int], dice: torch.Generator, image: ImageConfig
) -> tuple[list[Sample], torch.Tensor]:
    """A sample of one image and random text for each of the lengths, and the images' bytes."""
    plan = plan_image(image, (image.size, image.size))
    samples = []
    for length in lengths:
        text = torch.randint(3, VOCAB - 2, (length,), generator=dice).tolist()
        ids = (1, *([IMAGE_ID] * plan.num_tokens), *text)
        learned = length // 2
        weights = (0.0,) * (len(ids) - learned) + (1.0,) * learned
        samples.append(Sample(ids, weights, (Segment(0, len(ids)),), (Media(b"", plan),)))
    shape = (len(lengths), image.size, image.size, 3)
    return samples, torch.randint(0, 256, shape, generator=dice, dtype=torch.uint8)


def pad_batch(samples: list[Sample], pixels_NHWC: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same samples as a right-padded batch with labels, as a collator of TRL makes it."""
    longest = max(sample.num_tokens for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        tokens = torch.tensor(sample.ids)
        size = len(tokens)
        ids[row, :size] = tokens.where(tokens >= 0, IMAGE_TOKEN)
        mask[row, :size] = 1
        labels[row, :size] = tokens.where(torch.tensor(sample.weights) > 0, -100)
    mean, std = torch.tensor(IMAGE.mean), torch.tensor(IMAGE.std)
    pixels = ((pixels_NHWC / 255 - mean) / std).permute(0, 3, 1, 2)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}


def peer_step(hf: LlavaForConditionalGeneration, optimizer: torch.optim.Optimizer, inputs: dict) -> float:
    with torch.autocast(inputs["labels"].device.type, torch.bfloat16):
        count = (inputs["labels"] != -100).sum()
        loss = hf(**inputs, num_items_in_batch=count).loss
    loss.backward()
    clip_gradients(hf, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def our_step(model: Llava, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    loss, _ = train_step(model, SFT(), [batch], precision="bf16")
    clip_gradients(model, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def weight_flops(model: Llava, batch: Batch) -> float:
    """6 operations per weight and token in the decoder, 6 per weight and learned token in the head, and no others.

    `StepFlops`, the `mfu` of a run, also counts attention (a tree of T tokens as T x T), tower and connector.
    """
    head = model.language.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.language.parameters()) - head
    return 6 * body * batch.num_tokens + 6 * head * len(batch.labels_L)


def utilisation(
    model: Llava, flops: StepFlops, batches: list[Batch], seconds: list[float], peak: float
) -> dict[str, float]:
    """Medians of what steps use of the measured peak: all of a step's products, and those with weights only."""
    sides = {
        "mfu": lambda batch: flops.count([batch]),
        "mfu_weights": lambda batch: weight_flops(model, batch),
    }
    return {
        name: round(median([count(batch) / s / peak for batch, s in zip(batches, seconds, strict=True)]), 3)
        for name, count in sides.items()
    }


def learner(model: Llava) -> torch.optim.Optimizer:
    """The optimizer of a model that learns but for its tower."""
    train_only(model, ("connector", "language"))
    model.train()
    return build_optimizer(model, OptimConfig())


def time_alone(runs: int, samples: int, *, compiles: bool) -> None:
    """Our steps alone in this process: tokens/s and what they use of the peak."""
    model = build_model().model
    optimizer, flops = learner(model), StepFlops(model)
    drawn = [draw_samples(samples, run) for run in range(runs)]
    packed = [collate(some, pixels.split(1)) for some, pixels in drawn]
    if compiles:
        compile_blocks(model)
    for batch in sorted(packed, key=lambda batch: -batch.num_tokens):  # all memory it will need comes first
        our_step(model, optimizer, batch)
    seconds = []
    for batch in packed:
        began = time.perf_counter()
        our_step(model, optimizer, batch)
        seconds.append(time.perf_counter() - began)
    peak = matmul_peak()
    found = {
        "name": "sft step alone",
        "ours": round(
            median([batch.num_tokens / each for batch, each in zip(packed, seconds, strict=True)]), 1
        ),
        "unit": "sample tokens/s",
        "runs": runs,
        "samples": samples,
        "compiled": compiles,
        "peak_gflops": round(peak / 1e9),
    }
    print(json.dumps(found | utilisation(model, flops, packed, seconds, peak) | {"machine": facts()}))


def compare_compiled(runs: int, samples: int) -> None:
    """Two models with the same weights and samples; the blocks of one are compiled. Its warm-up is told apart."""
    models = [build_model().model for _ in range(2)]
    optimizers = [learner(model) for model in models]
    drawn = [draw_samples(samples, run) for run in range(runs)]
    packed = [collate(some, pixels.split(1)) for some, pixels in drawn]
    # With it the process has all memory it will need.
    largest = max(packed, key=lambda batch: batch.num_tokens)
    compile_blocks(models[0])
    began = time.perf_counter()
    losses = [our_step(models[0], optimizers[0], largest)]
    warm_up = time.perf_counter() - began
    losses.append(our_step(models[1], optimizers[1], largest))
    if abs(losses[0] - losses[1]) > 0.02:
        raise SystemExit(f"compiled blocks compute another loss: {losses}")
    mine, plain = alternate(
        lambda run: our_step(models[0], optimizers[0], packed[run]),
        lambda run: our_step(models[1], optimizers[1], packed[run]),
        runs,
    )
    sizes = [batch.num_tokens for batch in packed]
    peak, flops = matmul_peak(), StepFlops(models[1])
    rates = [[size / second for size, second in zip(sizes, side, strict=True)] for side in (mine, plain)]
    report(
        "sft step, compiled blocks against plain ones",
        round(median(rates[0]), 1),
        {
            "name": "llavakit without compile",
            "version": torch.__version__,
            "value": round(median(rates[1]), 1),
        },
        "sample tokens/s",
        better="higher",
        runs=runs,
        ratio_of_runs=round(median([one / other for one, other in zip(*rates, strict=True)]), 3),
        warm_up_seconds=round(warm_up, 1),
        losses=[round(loss, 4) for loss in losses],
        compiled_use=utilisation(models[1], flops, packed, mine, peak),
        plain_use=utilisation(models[1], flops, packed, plain, peak),
        peak_gflops=round(peak / 1e9),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="compiled blocks against plain ones")
    parser.add_argument(
        "--alone", choices=("plain", "compiled"), help="our step only, in a process for itself"
    )
    arguments = parser.parse_args()
    runs = arguments.runs
    keep_freed_memory()  # serves both sides: they share the process
    if arguments.compile:
        compare_compiled(runs, arguments.samples)
        return
    if arguments.alone:
        time_alone(runs, arguments.samples, compiles=arguments.alone == "compiled")
        return

    ours = build_model()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(ours, Path(folder) / "model")
        hf = LlavaForConditionalGeneration.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    mine = learner(ours.model)
    hf.model.vision_tower.requires_grad_(False)
    hf.train()
    rate = OptimConfig().lr.language
    theirs = torch.optim.AdamW(
        [p for p in hf.parameters() if p.requires_grad], lr=rate, weight_decay=0.0, fused=True
    )

    drawn = [draw_samples(arguments.samples, seed) for seed in range(runs)]
    packed = [collate(samples, pixels.split(1)) for samples, pixels in drawn]
    padded = [pad_batch(samples, pixels) for samples, pixels in drawn]
    # Also warms up: with the largest batches the process has all memory it will need.
    largest = max(range(len(drawn)), key=lambda run: padded[run]["input_ids"].numel())
    losses = our_step(ours.model, mine, packed[largest]), peer_step(hf, theirs, padded[largest])
    print(f"loss of the same samples: ours {losses[0]:.4f}, peer {losses[1]:.4f}")
    if abs(losses[0] - losses[1]) > 0.02:
        raise SystemExit("the two sides do not compute the same loss; the comparison would mean nothing")

    seconds, peer_seconds = alternate(
        lambda run: our_step(ours.model, mine, packed[run]),
        lambda run: peer_step(hf, theirs, padded[run]),
        runs,
    )
    real = [sum(sample.num_tokens for sample in samples) for samples, _ in drawn]
    rates = [count / second for count, second in zip(real, seconds, strict=True)]
    peer_rates = [count / second for count, second in zip(real, peer_seconds, strict=True)]
    peak, flops = matmul_peak(), StepFlops(ours.model)
    positions = median([batch["input_ids"].numel() for batch in padded])
    report(
        "sft step, packed against padded",
        round(median(rates), 1),
        {"name": "transformers LlavaForConditionalGeneration, padded", "version": transformers_version,
         "value": round(median(peer_rates), 1)},
        "sample tokens/s",
        better="higher",
        runs=runs,
        padding=round(1 - median(real) / positions, 3),
        **utilisation(ours.model, flops, packed, seconds, peak),
        peer_mfu=utilisation(ours.model, flops, packed, peer_seconds, peak)["mfu"],
        peak_gflops=round(peak / 1e9),
    )  # fmt: skip


if __name__ == "__main__":
    main()
