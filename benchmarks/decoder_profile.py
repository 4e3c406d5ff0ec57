"""Where a step of the decoder goes: products, attention, the rest, for 1 to 1,024 rows and every kind of decoder.

SmolLM2-135M's shape in bf16, 220 tokens in the cache of each of up to 64 sequences; 1,024 rows are four prompts.
The parts are timed alone, over all layers: `products` are the layers' matrix products, `attention` writes keys and
values and attends, `rest` is what the whole takes beyond them (norms, rotation, activations, calls; a little less
than nothing where the parts alone cost more calls than the whole). Best of several, in turn.

    python -m benchmarks.decoder_profile [--threads 2] [--runs 10] [--cpu-time]

--cpu-time counts the processor time of one thread: for machines on which other work is running.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.sft import build_model
from llavakit.core.memory import keep_freed_memory
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import Decoder, FusedDecoder, ModuleDecoder, fuse
from llavakit.engine.kv_slots import KvShape
from llavakit.engine.layout import StepLayout
from llavakit.model.attention import Scoring
from llavakit.model.llava import Llava

CACHED, PROMPTS = 220, 4
Timed = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1 if arguments.cpu_time else arguments.threads)
    clock = time.thread_time if arguments.cpu_time else time.perf_counter

    model = build_model().model.eval()
    model.language.to(torch.bfloat16)
    decoders: dict[str, Decoder] = {
        "module": ModuleDecoder(model),
        "torch bf16": fuse(model),
        "torch int8": fuse(model, "int8"),
        "torch int4": fuse(model, "int4"),
        "native bf16": fuse(model, kernels="native"),
        "native int8": fuse(model, "int8", kernels="native"),
        "native int4": fuse(model, "int4", kernels="native"),
        "native int4, head too": fuse(model, "int4", head="int4", kernels="native"),
    }
    print("| rows | decoder | layers | products | attention | rest | head | rows/s |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in (1, 16, 64, 1024):
        with torch.inference_mode():
            parts = {name: timed_parts(model, decoder, rows) for name, decoder in decoders.items()}
            best = best_of(parts, max(2, min(arguments.runs, 2000 // rows)), clock)
        for name in decoders:
            whole, products, attention, head = (1e3 * best[name, part] for part in range(4))
            print(
                f"| {rows} | {name} | {whole:.2f} | {products:.2f} | {attention:.2f} "
                f"| {whole - products - attention:.2f} | {head:.2f} | {rows * 1e3 / (whole + head):.0f} |",
                flush=True,
            )


def best_of(
    parts: dict[str, list[Timed]], runs: int, clock: Callable[[], float]
) -> dict[tuple[str, int], float]:
    """Seconds of each part of each decoder; all are run in turn, so that all meet the same machine."""
    best: dict[tuple[str, int], float] = {}
    for _ in range(runs + 1):
        for name, works in parts.items():
            for number, work in enumerate(works):
                began = clock()
                work()
                best[name, number] = min(best.get((name, number), 1e9), clock() - began)
    return best


def timed_parts(model: Llava, decoder: Decoder, rows: int) -> list[Timed]:
    """The layers, their products, their attention, and the head for at most 64 rows, each to be timed alone."""
    config = model.language.config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    layout = make_layout(
        KvShape(config.num_hidden_layers, key_heads, width, torch.bfloat16, model.device), rows
    )
    x_TD = model.language.get_input_embeddings()(torch.arange(rows) % 1000)
    prompt = rows // PROMPTS
    positions_T = torch.full((rows,), CACHED) if rows <= 64 else torch.arange(prompt).repeat(PROMPTS)
    qkv_TXW = torch.randn(rows, heads + 2 * key_heads, width, dtype=torch.bfloat16)

    def attention() -> None:
        for number in range(config.num_hidden_layers):
            if isinstance(decoder, FusedDecoder) and decoder.kernels == "native":
                layout.attend_rows(qkv_TXW, heads, number, 0.125, decoder.work)
            else:
                query, key, value = (
                    part.transpose(0, 1)[None] for part in qkv_TXW.split((heads, key_heads, key_heads), dim=1)
                )
                layout.attend(query, *layout.update(key, value, number), Scoring(0.125))

    return [
        lambda: decoder(x_TD, positions_T, layout, layout),
        products(model, decoder, rows),
        attention,
        lambda: decoder.logits(x_TD[:64]),
    ]


def make_layout(shape: KvShape, rows: int) -> StepLayout:
    """A step in which up to 64 sequences gain a token, or one that reads PROMPTS prompts."""
    cache = SlotCache(shape, 100_000)
    if rows > 64:
        return cache.step([(some_slot(cache, rows // PROMPTS), rows // PROMPTS) for _ in range(PROMPTS)])
    for _ in range(rows):
        slot = some_slot(cache, CACHED + 1)
        slot.length = CACHED
        slot.arena.promote(slot)
    return cache.step([])


def some_slot(cache: SlotCache, positions: int):
    slot = cache.open(positions)
    assert slot is not None
    return slot


def products(model: Llava, decoder: Decoder, rows: int) -> Timed:
    """All matrix products of the layers, on rows of the right width."""
    if isinstance(decoder, FusedDecoder):
        pairs = [
            (product.linear, product.modules[0].in_features)
            for layer in decoder.layers
            for product in layer.products
        ]
    else:
        body = model.language.get_decoder()
        pairs = [
            (module, module.in_features) for module in body.modules() if isinstance(module, torch.nn.Linear)
        ]
    inputs: dict[int, Tensor] = {
        width: torch.randn(rows, width, dtype=torch.bfloat16) for width in {width for _, width in pairs}
    }

    def run() -> None:
        for product, width in pairs:
            product(inputs[width])

    return run


if __name__ == "__main__":
    main()
