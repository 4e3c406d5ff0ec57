"""What one GPU does: SFT steps and answers of three shapes with random weights, in one table and one JSON line.

Of a step: tokens/s, model FLOP utilisation of a peak measured here, and the most memory against the estimate of
`--dry-run`. Of answers: tokens/s of one stream and of sixteen by the engine's modules. Beside them the classes of
`transformers` on the same card, with the same weights and samples: a padded batch for the step, `generate` for the
answers. The largest shape learns adapters and has no peer. About six minutes on an H100 are expected, none was had.

    make gpu-bench
    python -m benchmarks.gpu --tiny        # a shape for a CPU, as the tests run it
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, LlavaForConditionalGeneration

from benchmarks.machine import facts, median
from benchmarks.sft import IMAGE, VOCAB, build_model, make_samples, our_step, pad_batch, peer_step
from llavakit.core.progress import console
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.engine.decoder import ModuleDecoder
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.model.adapters import Adapter, add_adapters
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava
from llavakit.model.settings import ConnectorConfig, LoraSettings, ModelConfig
from llavakit.train.estimate import estimate_memory
from llavakit.train.flops import StepFlops, measure_peak
from llavakit.train.freezing import halve_frozen, train_only
from llavakit.train.optim import build_optimizer
from llavakit.train.run import Run

PROMPT = 128
LORA = LoraSettings(r=64, alpha=128, dropout=0.0)


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder; its weights are random."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    keys: int
    vocabulary: int
    tied: bool = True
    lora: bool = False
    tokens: int = 8192  # of a packed row
    samples: int = 24
    answer: int = 64  # tokens
    kv_bytes: int = 2**30  # for keys and values

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.inner,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.keys,
            tie_word_embeddings=self.tied, pad_token_id=None, max_position_embeddings=16384,
        )  # fmt: skip


SHAPES = (
    Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 49152),
    Shape("Qwen2-0.5B", 896, 4864, 24, 14, 2, 151936),
    Shape("Qwen2-7B", 3584, 18944, 28, 28, 4, 152064, tied=False, lora=True),
)
TINY = (
    Shape("tiny", 64, 128, 2, 4, 2, 49152, tokens=512, samples=3, answer=4, kv_bytes=2**24),
    Shape(
        "tiny, adapters",
        64,
        128,
        2,
        4,
        2,
        49152,
        tied=False,
        lora=True,
        tokens=512,
        samples=3,
        answer=4,
        kv_bytes=2**24,
    ),
)
Row = dict[str, float | str | None]


def build(shape: Shape, device: torch.device) -> checkpoint.Checkpoint:
    """The shape behind a small tower, on the device; large ones are drawn there, not on the host."""
    made = build_model(layers=1)
    with device:
        language = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.float32)
    tower = made.model.tower
    made.model = Llava(tower, build_connector(ConnectorConfig(), tower.width, shape.width), language).to(
        device
    )
    return made


def draw(shape: Shape) -> tuple[list[Sample], torch.Tensor]:
    """Samples that fit into a row, lognormal as LLaVA's; half of their text is learned."""
    dice = torch.Generator().manual_seed(0)
    each = shape.tokens // shape.samples - IMAGE.grid**2 - 1
    lengths = (each / 2 * torch.randn(shape.samples, generator=dice).exp()).clamp(8, each).int().tolist()
    return make_samples(lengths, dice, IMAGE)


def train_side(shape: Shape, made: checkpoint.Checkpoint, steps: int) -> Row:
    """Tokens/s, utilisation and memory of our step."""
    model, device = made.model, made.model.device
    run = Run(
        train=("connector", "language"), precision="bf16", data=DataConfig(tokens=shape.tokens),
        model=ModelConfig(
            tower=made.card.tower, connector=made.card.connector, image=made.card.image, template="brief",
            im_start_end=False, lora=LORA if shape.lora else None,
        ),
    )  # fmt: skip
    if shape.lora:
        add_adapters(model, LORA)
    train_only(model, run.train, adapter=Adapter(LORA, Path()) if shape.lora else None)
    if shape.lora:
        halve_frozen(model)
    samples, pixels = draw(shape)
    batch = collate(samples, pixels.split(1))
    optimizer = build_optimizer(model, run.optim)
    model.train()
    seconds = _seconds(lambda: our_step(model, optimizer, batch), steps, device)
    rate = StepFlops(model).count([batch]) / seconds / measure_peak(device, "bf16")
    share = len(batch.predict_L) / batch.num_tokens
    full = run.model_copy(update={"data": DataConfig(tokens=batch.num_tokens)})
    told = estimate_memory(full, model, learned=share).total
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "step_tokens_per_second": batch.num_tokens / seconds,
        "mfu": rate,
        "memory_gb": None if most is None else most / 1e9,
        "estimate_gb": told / 1e9,
    }


def peer_side(shape: Shape, hf: LlavaForConditionalGeneration, device: torch.device, steps: int) -> Row:
    """The same samples as a padded batch; counted are the samples' own tokens."""
    samples, pixels = draw(shape)
    inputs = {key: value.to(device) for key, value in pad_batch(samples, pixels).items()}
    hf.model.vision_tower.requires_grad_(False)
    hf.train()
    learned = [p for p in hf.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=2e-5, weight_decay=0.0, fused=True)
    seconds = _seconds(lambda: peer_step(hf, optimizer, inputs), steps, device)
    return {"peer_step_tokens_per_second": sum(sample.num_tokens for sample in samples) / seconds}


def answer_side(shape: Shape, made: checkpoint.Checkpoint, hf: LlavaForConditionalGeneration | None) -> Row:
    """Tokens/s of one answer and of sixteen to prompts of equal lengths, which are read in that time too."""
    model, device = made.model.eval(), made.model.device
    found: Row = {}
    sampling = Sampling(max_tokens=shape.answer, ignore_end=True)
    for streams in (1, 16):
        prompts_BT = torch.randint(
            3, VOCAB - 2, (streams, PROMPT), generator=torch.Generator().manual_seed(streams)
        )
        samples = [
            Sample(tuple(ids), (0.0,) * PROMPT, (Segment(0, PROMPT),), ()) for ids in prompts_BT.tolist()
        ]
        engine = Engine(model, frozenset(), decoder=ModuleDecoder(model), kv_bytes=shape.kv_bytes)

        def ours(engine: Engine = engine, samples: list[Sample] = samples) -> object:
            return engine.generate(samples, sampling)

        with torch.autocast(device.type, torch.bfloat16):
            found[f"answer_{streams}"] = streams * shape.answer / _seconds(ours, 2, device)
        if hf is None:
            continue

        here_BT = prompts_BT.to(device)

        def theirs(peer: Any = hf, ids_BT: torch.Tensor = here_BT) -> object:
            return peer.generate(
                input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=shape.answer,
                min_new_tokens=shape.answer, do_sample=False, pad_token_id=0,
            )  # fmt: skip

        with torch.autocast(device.type, torch.bfloat16), torch.inference_mode():
            hf.eval()
            found[f"peer_answer_{streams}"] = streams * shape.answer / _seconds(theirs, 2, device)
    return found


def measure(shape: Shape, device: torch.device, steps: int) -> Row:
    """Everything of a shape."""
    made = build(shape, device)
    row: Row = {"shape": shape.name, "learns": "adapters" if shape.lora else "everything but the tower"}
    hf: Any = None
    if not shape.lora:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(made, Path(folder) / "model")
            hf = LlavaForConditionalGeneration.from_pretrained(Path(folder) / "model", dtype=torch.float32)
        hf.to(device)
    row |= answer_side(shape, made, hf)
    if hf is not None:
        row |= peer_side(shape, hf, device, steps)
        del hf
    _let_go(device)
    return row | train_side(shape, made, steps)


def show(rows: list[Row]) -> None:
    """A column for each shape; a dash stands for what was not measured."""
    lines = {
        "learns": "learns", "step_tokens_per_second": "step, tokens/s",
        "peer_step_tokens_per_second": "transformers, padded", "mfu": "MFU", "memory_gb": "memory, GB",
        "estimate_gb": "estimated, GB", "answer_1": "1 answer, tokens/s", "peer_answer_1": "generate",
        "answer_16": "16 answers, tokens/s", "peer_answer_16": "generate",
    }  # fmt: skip
    table = Table("", *(str(row["shape"]) for row in rows), box=None)
    for key, title in lines.items():
        table.add_row(title, *(_cell(row.get(key)) for row in rows))
    console.print(table)


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return "–" if value is None else str(value)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="shapes for a CPU")
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() and not given.tiny else "cpu")
    rows = []
    for shape in TINY if given.tiny else SHAPES:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rows.append(measure(shape, device, given.steps))
        _let_go(device)
    show(rows)
    print(json.dumps({"name": "gpu-bench", "rows": rows, "machine": facts()}), flush=True)


def _seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """The median of some, after two that warm up."""
    found = []
    for number in range(times + 2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            found.append(time.perf_counter() - began)
    return median(found)


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


if __name__ == "__main__":
    main()
