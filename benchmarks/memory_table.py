"""Memory per GPU and tokens per second to expect, computed from model dimensions. Nothing here was measured.

python -m benchmarks.memory_table           # rewrites the tables in docs/scale.md
python -m benchmarks.memory_table --peak 312 --print     # the same for an A100, on the screen

Shape letters: D width, F width inside the feed-forward part, K width of keys (and of values), V vocabulary.
Bytes: float32 4, bf16 2. GB are 10^9 bytes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page import rewrite

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- tables: written by python -m benchmarks.memory_table -->", "<!-- end of tables -->"
GPUS = (1, 8, 64, 512)
WHOLE = 2048  # rows of logits alive at once (llavakit/train/losses.py)


@dataclass(frozen=True)
class Decoder:
    """A decoder with gated feed-forward parts and RMS norms, embeddings and head not tied."""

    name: str
    D: int
    F: int
    K: int
    layers: int
    V: int
    qkv_bias: bool = False

    @property
    def block_params(self) -> int:
        """Query and output, key and value, three feed-forward matrices, two norms, biases."""
        bias = self.D + 2 * self.K if self.qkv_bias else 0
        return 2 * self.D * self.D + 2 * self.D * self.K + 3 * self.D * self.F + 2 * self.D + bias

    @property
    def table_params(self) -> int:
        """Embeddings, head, last norm."""
        return 2 * self.V * self.D + self.D

    @property
    def params(self) -> int:
        return self.layers * self.block_params + self.table_params

    def block_activations(self) -> int:
        """Bytes a token leaves in one block for the backward pass.

        Two norms: the input in float32, normalised and scaled in bf16: 2 x (4 + 2 + 2) D. Attention: query,
        result, and its copy into the output matrix 3 x 2 D, key and value 2 x 2 K. Feed-forward: gate, its
        activation, up, their product: 4 x 2 F.
        """
        return 22 * self.D + 4 * self.K + 8 * self.F


@dataclass(frozen=True)
class Tower:
    """A ViT with plain feed-forward parts and layer norms; `layers` are those computed."""

    params: int
    D: int
    F: int
    layers: int
    patches: int

    def activations(self) -> int:
        """Bytes a tile leaves: two norms 2 x (2 + 2) D, query to output 5 x 2 D, feed-forward 2 x 2 F."""
        return self.layers * self.patches * (18 * self.D + 4 * self.F)


# Vicuna 1.5, Nous-Hermes-2-Yi, Qwen1.5; a vocabulary holds <image> and is a multiple of 64.
DECODERS = (
    Decoder("7B", D=4096, F=11008, K=4096, layers=32, V=32064),
    Decoder("13B", D=5120, F=13824, K=5120, layers=40, V=32064),
    Decoder("34B", D=7168, F=20480, K=1024, layers=60, V=64064),
    Decoder("72B", D=8192, F=24576, K=8192, layers=80, V=152064, qkv_bias=True),
    Decoder("110B", D=8192, F=49152, K=1024, layers=80, V=152064, qkv_bias=True),
)
CLIP_336 = Tower(params=303_507_456, D=1024, F=4096, layers=23, patches=577)


@dataclass(frozen=True)
class Assumed:
    """What cannot be computed."""

    peak: float = 989  # TFLOP/s of one GPU in bf16, dense (H100 SXM)
    memory: float = 80  # GB of one GPU
    usable: float = 0.9  # the rest is fragments, workspaces and the driver
    mfu: float = 0.4  # useful FLOP/s over peak, nothing recomputed, on one machine
    loss_by_eight: float = 0.95  # times this for eight times the GPUs, from 8 on
    tokens: int = 4096  # of a packed row; a rank computes one row at a time
    learned: float = 0.3  # share of its tokens that carry weight
    tiles: int = 5  # tower calls a row needs, in tiles
    segment: int = 1500  # mean tokens of a sample: what attention looks back over


@dataclass(frozen=True)
class Estimate:
    """One way to run: bytes on a GPU by what they are for, and the speed of all GPUs together."""

    how: str
    state: float
    gathered: float
    activations: float
    logits: float
    tokens_per_second: float

    @property
    def total(self) -> float:
        return self.state + self.gathered + self.activations + self.logits


def connector_params(decoder: Decoder, tower: Tower) -> int:
    """Two layers: tower width to D, D to D."""
    return (tower.D + 1) * decoder.D + (decoder.D + 1) * decoder.D


def estimate(
    decoder: Decoder, gpus: int, assumed: Assumed, *, all_trained: bool, sharded: bool, recompute: bool
) -> Estimate:
    """float32 weights, gradients and AdamW's two moments: 16 bytes a trained parameter, 4 a frozen one.

    Sharded, a GPU holds 1/gpus of that (a frozen tower it holds whole), and beside it in bf16 the tables, two
    blocks on their way through, and one block's gradient in both types. Not sharded, autocast keeps bf16 copies
    of the weights that its backward pass needs: all, or with recomputing those of one block.
    """
    tower, connector = CLIP_336, connector_params(decoder, CLIP_336)
    body, tables = decoder.layers * decoder.block_params, decoder.table_params
    each = 16 if all_trained else 4
    state = each * (body + tables + tower.params) + 16 * connector
    if sharded:
        whole_tower = 0 if all_trained else 4 * tower.params
        state = whole_tower + (state - whole_tower) / gpus
        grads = (2 + 4) * decoder.block_params + (2 + 4) * tables if all_trained else 0
        gathered = 2 * (tables + connector) + 2 * 2 * decoder.block_params + grads
    else:
        gathered = 2 * (decoder.block_params if recompute else body) + 2 * tables

    per_block = assumed.tokens * decoder.block_activations()
    kept = assumed.tokens * 2 * decoder.D
    activations = decoder.layers * kept + per_block if recompute else decoder.layers * per_block
    if all_trained:
        per_row = assumed.tiles * tower.activations()
        activations += per_row / tower.layers * 2 if recompute else per_row
    rows = min(WHOLE, assumed.learned * assumed.tokens)
    logits = rows * decoder.V * (2 + 4 + 4 + 4)  # bf16, float32, its softmax, its gradient

    seconds = row_flops(decoder, assumed, all_trained=all_trained) / (_rate(assumed, gpus) * 1e12)
    if recompute:
        seconds *= 4 / 3 if all_trained else 3 / 2  # one more forward pass: of three, or of two
    how = ("FSDP" if sharded else "whole") + (", recomputing" if recompute else "")
    return Estimate(how, state, gathered, activations, logits, gpus * assumed.tokens / seconds)


def row_flops(decoder: Decoder, assumed: Assumed, *, all_trained: bool) -> float:
    """Useful FLOPs of a row, forward and backward.

    2 a weight and token forward; as much again for the gradient of the activations, and of the weights where
    they are trained. Attention: 4 D a pair of tokens that see each other, half of all pairs of a segment.
    """
    passes = 3 if all_trained else 2
    body = 2 * decoder.layers * decoder.block_params * assumed.tokens
    attention = 4 * decoder.D * decoder.layers * assumed.tokens * assumed.segment / 2
    head = 2 * decoder.V * decoder.D * assumed.learned * assumed.tokens
    tower = 2 * CLIP_336.params * CLIP_336.patches * assumed.tiles
    return passes * (body + attention + head) + (passes if all_trained else 1) * tower


def best(decoder: Decoder, gpus: int, assumed: Assumed, *, all_trained: bool) -> Estimate:
    """The fastest way that fits; the smallest where none does."""
    ways = [
        estimate(decoder, gpus, assumed, all_trained=all_trained, sharded=sharded, recompute=recompute)
        for recompute in (False, True)
        for sharded in ((False, True) if gpus > 1 else (False,))
    ]
    fitting = [way for way in ways if fits(way, assumed)]
    return fitting[0] if fitting else min(ways, key=lambda way: way.total)


def fits(way: Estimate, assumed: Assumed) -> bool:
    return way.total <= assumed.usable * assumed.memory * 1e9


def table(assumed: Assumed, *, all_trained: bool) -> str:
    """One Markdown table."""
    lines = [
        "| model | GPUs | how | state | gathered | activations | logits | together, GB | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for decoder in DECODERS:
        for gpus in GPUS:
            way = best(decoder, gpus, assumed, all_trained=all_trained)
            parts = (way.state, way.gathered, way.activations, way.logits)
            cells = " | ".join(f"{part / 1e9:.1f}" for part in parts)
            if fits(way, assumed):
                end = f"{way.total / 1e9:.0f} | {_two_digits(way.tokens_per_second)}"
            else:
                end = f"{way.total / 1e9:.0f}: too much | –"
            lines.append(f"| {decoder.name} | {gpus} | {way.how} | {cells} | {end} |")
    return "\n".join(lines)


def tables(assumed: Assumed) -> str:
    """Both tables, each under what is trained in it."""
    return (
        f"Everything trained (stage 2 of LLaVA-NeXT):\n\n{table(assumed, all_trained=True)}\n\n"
        f"Only the connector trained (stage 1):\n\n{table(assumed, all_trained=False)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in vars(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    given = vars(parser.parse_args())
    only_print = given.pop("print")
    text = tables(Assumed(**given))
    if only_print:
        print(text)
        return
    rewrite(PAGE, BEGIN, END, text)


def _rate(assumed: Assumed, gpus: int) -> float:
    """Useful TFLOP/s of one GPU among so many."""
    eights = 0
    while gpus > 8:
        gpus //= 8
        eights += 1
    return assumed.peak * assumed.mfu * assumed.loss_by_eight**eights


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


if __name__ == "__main__":
    main()
