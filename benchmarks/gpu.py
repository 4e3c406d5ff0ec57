"""What one GPU does: SFT steps and answers of three shapes with random weights, in one table and one JSON line.

Of a step: tokens/s, model FLOP utilisation of a peak measured here, and the most memory against the estimate of
`--dry-run`; with --compile also tokens/s with compiled blocks. Of answers, in bf16: tokens/s of one stream, of
sixteen, and of a queue of prompts of all lengths. Beside them the classes of `transformers` on the same card, with
the same weights and samples: a padded batch for the step, `generate` for the answers. With --trl-python, whole runs
against TRL's trainer (sft_trl.py). The largest shape learns adapters and has no peer. About six minutes on an H100
are expected, none was had.

    make gpu-bench
    python -m benchmarks.gpu --tiny        # a shape for a CPU, as the tests run it
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
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
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.model.adapters import Adapter, add_adapters
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava
from llavakit.model.rope import cast
from llavakit.model.settings import ConnectorConfig, LoraSettings, ModelConfig
from llavakit.train.compiling import compile_blocks
from llavakit.train.estimate import estimate_memory
from llavakit.train.flops import StepFlops, measure_peak
from llavakit.train.freezing import halve_frozen, train_only
from llavakit.train.optim import build_optimizer
from llavakit.train.run import Run

PROMPT, BATCH = 128, 16
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
    queue: int = 128  # prompts
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
    Shape("tiny", 64, 128, 2, 4, 2, 49152, tokens=512, samples=3, answer=4, queue=20, kv_bytes=2**24),
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
        queue=20,
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


def train_side(shape: Shape, made: checkpoint.Checkpoint, steps: int, *, compiles: bool) -> Row:
    """Tokens/s, utilisation and memory of our step, and tokens/s with compiled blocks."""
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
    flops = StepFlops(model).count([batch])
    seconds = _seconds(lambda: our_step(model, optimizer, batch), steps, device)
    rate = flops / seconds / measure_peak(device, "bf16")
    share = len(batch.predict_L) / batch.num_tokens
    full = run.model_copy(update={"data": DataConfig(tokens=batch.num_tokens)})
    told = estimate_memory(full, model, learned=share).total
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    compiled: Row = {}
    if compiles:
        compile_blocks(model)
        faster = _seconds(lambda: our_step(model, optimizer, batch), steps, device)
        compiled["compiled_tokens_per_second"] = batch.num_tokens / faster
    return compiled | {
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
    """Tokens/s of answers, whose prompts are read in that time too; in bf16, as both sides serve.

    Prompts are new ones every time: what an engine has read it would not read again.
    """
    device, seeds = made.model.device, count()
    cast(made.model.eval(), torch.bfloat16)
    engine = Engine(made.model, frozenset(), kv_bytes=shape.kv_bytes)
    dice = torch.Generator().manual_seed(0)
    mixed = (PROMPT / 2 * torch.randn(shape.queue, generator=dice).exp()).clamp(4, 2 * PROMPT).int().tolist()
    sides: dict[str, Callable[[list[list[int]]], object]] = {"": partial(ask_engine, engine, shape.answer)}
    if hf is not None:
        sides["peer_"] = partial(ask_peer, hf.to(torch.bfloat16).eval(), shape.answer)  # type: ignore[arg-type]
    found: Row = {}
    for name, lengths in (("answer_1", [PROMPT]), ("answer_16", [PROMPT] * BATCH), ("queue", mixed)):
        for side, ask in sides.items():

            def work(ask: Callable = ask, lengths: list[int] = lengths) -> object:
                return ask(draw_prompts(lengths, next(seeds)))

            found[side + name] = len(lengths) * shape.answer / _seconds(work, 2, device)
    cast(made.model, torch.float32)
    if hf is not None:
        hf.float()
    return found


def draw_prompts(lengths: list[int], seed: int) -> list[list[int]]:
    dice = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB - 2, (length,), generator=dice).tolist() for length in lengths]


def ask_engine(engine: Engine, answer: int, prompts: list[list[int]]) -> list[list[int]]:
    samples = [Sample(tuple(ids), (0.0,) * len(ids), (Segment(0, len(ids)),), ()) for ids in prompts]
    return engine.generate(samples, Sampling(max_tokens=answer, ignore_end=True))


def ask_peer(hf: Any, answer: int, prompts: list[list[int]]) -> list[torch.Tensor]:
    """`generate`, some at a time, padded on the left."""
    answers = []
    for first in range(0, len(prompts), BATCH):
        some = prompts[first : first + BATCH]
        longest = max(map(len, some))
        ids_BT = torch.tensor([[0] * (longest - len(ids)) + ids for ids in some], device=hf.device)
        mask_BT = torch.tensor(
            [[0] * (longest - len(ids)) + [1] * len(ids) for ids in some], device=hf.device
        )
        with torch.inference_mode():
            answers.append(
                hf.generate(
                    input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=answer, min_new_tokens=answer,
                    do_sample=False, pad_token_id=0,
                )
            )  # fmt: skip
    return answers


def measure(shape: Shape, device: torch.device, steps: int, *, compiles: bool) -> Row:
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
    return row | train_side(shape, made, steps, compiles=compiles)


def trl_side(python: Path) -> object:
    """What the run against TRL's trainer says in its last line; both sides take the device there is."""
    command = [sys.executable, "-m", "benchmarks.sft_trl", f"--peer-python={python}", "--runs=1"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(rows: list[Row]) -> None:
    """A column for each shape; a dash stands for what was not measured."""
    lines = {
        "learns": "learns", "step_tokens_per_second": "step, tokens/s",
        "compiled_tokens_per_second": "compiled blocks",
        "peer_step_tokens_per_second": "transformers, padded", "mfu": "MFU", "memory_gb": "memory, GB",
        "estimate_gb": "estimated, GB", "answer_1": "1 answer, tokens/s", "peer_answer_1": "generate",
        "answer_16": "16 answers, tokens/s", "peer_answer_16": "generate",
        "queue": "a queue, tokens/s", "peer_queue": "generate, 16 at a time",
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
    parser.add_argument("--compile", action="store_true", help="the step with compiled blocks too")
    parser.add_argument(
        "--trl-python", type=Path, help="of an environment with TRL: benchmarks/sft_trl.py too"
    )
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() and not given.tiny else "cpu")
    rows = []
    for shape in TINY if given.tiny else SHAPES:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rows.append(measure(shape, device, given.steps, compiles=given.compile))
        _let_go(device)
    show(rows)
    found: dict[str, object] = {"name": "gpu-bench", "rows": rows}
    if given.trl_python is not None:
        found["trl"] = trl_side(given.trl_python)
    print(json.dumps(found | {"machine": facts()}), flush=True)


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
