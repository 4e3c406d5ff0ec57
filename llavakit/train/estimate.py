"""How much memory a run takes on one GPU: exact for what is kept between steps, formulas for what a step needs.

A step needs most at one of three moments: at the loss, when every activation is there and the logits too; in the
backward pass through a block, when its gradients are there (and, with checkpointing, its activations again); or at
the end of it. The formulas count what PyTorch keeps of a packed row for the backward pass of a Llama-like decoder.
They are not exact (allocators keep more, attention kernels differ); tests hold them against real steps.

Letters: D width of the decoder or tower, Q of all queries, K of all keys, F inside the MLP; C width of the tower.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig

from llavakit.core.errors import ConfigError
from llavakit.model.directory import complete_card
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.train.freezing import is_trained
from llavakit.train.fused_loss import CHUNK, PART
from llavakit.train.losses import WHOLE
from llavakit.train.run import Run
from llavakit.train.small_moments import moment_bytes
from llavakit.vision.frames import plan_video
from llavakit.vision.layout import Plan
from llavakit.vision.plan import PICTURE, plan_image

NF4 = 0.52  # bytes a weight in four bits, with its share of the quantized scales
LOGIT = 12  # bytes of each: its log-probability, the gradient of that, and its own, all float32


class Memory(NamedTuple):
    """Bytes on one GPU at the moment when most are taken."""

    weights: float
    gradients: float
    moments: float  # AdamW's two
    average: float  # of optim.ema
    reference: float  # copies of what learns, as it was at the start
    copies: (
        float  # weights as products take them, cast or gathered from other GPUs, and gradients on their way
    )
    activations: float  # of one packed row
    logits: float
    value: float = 0.0  # of PPO: its adapters with gradients and moments; the base is the policy's
    sampler: float = 0.0  # the weights that answers are sampled with, without keys and values

    @property
    def total(self) -> float:
        return sum(self)


class Sizes(NamedTuple):
    """How a run computes: bytes of a number."""

    product: int  # what matrix products take and give
    stream: int  # what flows from block to block
    shards: int  # GPUs that the model is cut over; 1: each has all of it

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies of float32 weights; gathered ones come in the right type."""
        return self.product == 2 and self.shards == 1


class Blocks(NamedTuple):
    """Bytes of the repeated blocks: `kept` until their backward pass, and what one block computes `again` in it."""

    kept: float
    again: float


class Moment(NamedTuple):
    """What a step takes at one moment beside what is kept between steps."""

    copies: float
    activations: float
    logits: float = 0.0


def estimate_memory(run: Run, model: Llava, *, shards: int = 1, learned: float = 1.0) -> Memory:
    """For `model` (numbers are not needed, see outline.py) with the parts of `run` frozen.

    `learned` is the share of a row's tokens that are learned. `run.precision=auto` counts as bf16, which it is on
    every GPU. A step is taken to have several rows, which add up their gradients.
    """
    product = 4 if run.precision == "float32" else 2
    # bf16 shards are gathered in bf16, and so is what flows; else it is as token embeddings are stored.
    language: Any = model.language
    stream = product if shards > 1 else language.get_input_embeddings().weight.element_size()
    sizes = Sizes(product, stream, shards)
    decoder, tower = _decoder_blocks(run, model, sizes), _tower_blocks(run, model, sizes)
    around = _around_blocks(run, model, sizes)
    copies = _cast_copies if shards == 1 else _gathered_copies
    at_loss, in_block, at_end = copies(run, model, sizes)
    kept = decoder.kept + tower.kept + around
    moments = (
        Moment(at_loss, kept, _logits(run, model, learned * run.data.tokens, sizes)),
        Moment(in_block, kept + max(decoder.again, tower.again)),
        Moment(at_end, around + tower.kept + tower.again),
    )
    return Memory(*_between_steps(run, model, shards), *max(moments, key=sum), *_roles(run, model, product))


def _logits(run: Run, model: Llava, rows: float, sizes: Sizes) -> float:
    """Bytes of the logits that are there at once, and in SFT of the head's gradient, which is made with them."""
    language: Any = model.language
    head = language.get_output_embeddings().weight
    if run.lesson is not None:
        return min(rows, WHOLE) * len(head) * LOGIT
    made = (4 + sizes.product * (sizes.product == 2)) * head.numel() * head.requires_grad
    return len(head) * (min(rows, CHUNK) * sizes.product + min(rows, PART) * 8) + made


def tower_rows(run: Run, model: Llava) -> float:
    """Rows the tower computes for each token of a packed row that is full of what the model is shown.

    Of a mean picture or video, whichever takes more: pooled videos have several rows a token.
    """
    card = complete_card(run.model)
    plans: list[Plan] = [plan_image(card.image, PICTURE)]
    if card.video is not None:
        plans.append(plan_video(card.video, card.image, PICTURE, card.video.max_frames))
    tower = model.tower
    each = tower.num_rows + (tower.kind.num_cls if isinstance(tower, ViTTower) else 0)
    return max(plan.tiles * each / plan.num_tokens for plan in plans)


def _between_steps(run: Run, model: Llava, shards: int) -> tuple[float, float, float, float, float]:
    """The first fields of Memory. A frozen tower is not cut; four bits are the decoder's frozen ones.

    Copies of fresh adapters are counted, though a reference does without them (train/reference.py).
    """
    lora = run.model.lora
    small: set[Tensor] = set()
    if lora is not None and lora.four_bit:
        layers = [each for each in model.language.get_decoder().modules() if isinstance(each, nn.Linear)]
        small = {layer.weight for layer in layers if not layer.weight.requires_grad}
    uncut = set() if is_trained(model.tower) else set(model.tower.parameters())
    weights = gradients = learned = moments = 0.0
    for p in model.parameters():
        share = p.numel() / (1 if p in uncut else shards)
        if run.parallel.offload and shards > 1 and p not in uncut:
            continue  # the host has it
        weights += share * (NF4 if p in small else p.element_size())
        gradients += share * p.element_size() * p.requires_grad
        learned += share * p.requires_grad
        moments += share * p.requires_grad * moment_bytes(run.optim.moments, p.ndim)
    average = 4 * learned if run.optim.ema is not None else 0.0
    return weights, gradients, moments, average, gradients if run.keeps_copies else 0.0


def _roles(run: Run, model: Llava, product: int) -> tuple[float, float]:
    """What value model and sampler of a run with `policy` hold beside the policy."""
    if run.policy is None:
        return 0.0, 0.0
    learned = sum(p.numel() for p in model.language.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    value = learned * (8 + moment_bytes(run.optim.moments, 2)) if run.policy.has_value else 0.0
    return value, float(product * every) if run.policy.copies_decoder else 0.0


class Counts(NamedTuple):
    """Parameters of decoder and connector: of a mean block, and of what is outside blocks."""

    layers: int
    block: float
    block_learns: float
    block_casts: float  # that are float32, of which bf16 products make copies
    outside: float
    outside_learns: float
    head: int
    table: int  # of the token embeddings; 0 where they are the head's


def _count(model: Llava) -> Counts:
    language: Any = model.language
    tables = (language.get_input_embeddings().weight, language.get_output_embeddings().weight)
    blocks = [p for p in language.get_decoder().parameters() if all(p is not table for table in tables)]
    parts = [*language.parameters(), *model.connector.parameters(), *model.newline.parameters()]
    layers = _dimensions(language.config)["num_hidden_layers"]
    in_blocks, learns = _numel(blocks), _numel(p for p in blocks if p.requires_grad)
    return Counts(
        layers,
        in_blocks / layers,
        learns / layers,
        _numel(p for p in blocks if p.element_size() == 4) / layers,
        _numel(parts) - in_blocks,
        _numel(p for p in parts if p.requires_grad) - learns,
        tables[1].numel(),
        0 if tables[0] is tables[1] else tables[0].numel(),
    )


def _cast_copies(run: Run, model: Llava, sizes: Sizes) -> tuple[float, float, float]:
    """Bytes of what autocast makes of float32 weights: at the loss, in a block's backward pass, at its end.

    The graph keeps the copies that input gradients need, but recomputed blocks make theirs again.
    """
    lora = run.model.lora
    if not sizes.casts or (lora is not None and lora.four_bit):
        return 0.0, 0.0, 0.0
    counts = _count(model)
    before = [part for part in (model.connector, model.tower) if is_trained(model.tower) or is_trained(part)]
    head: Any = model.language.get_output_embeddings()
    rest = 2.0 * sum(_numel(part.parameters()) for part in before)
    rest += 2.0 * counts.head * (head.weight.element_size() == 4)
    if not run.checkpointing:
        copies = 2 * counts.block_casts * counts.layers
        return rest + copies, rest + copies, rest
    return rest, rest + 2 * counts.block_casts, rest


def _gathered_copies(run: Run, model: Llava, sizes: Sizes) -> tuple[float, float, float]:
    """Bytes of gathered weights and of gradients on their way, at the same moments.

    What is outside blocks is gathered for the whole step, but for token embeddings, which are given back when rows
    are looked up, and a head of its own, which is there for the loss; of blocks the one that computes and the next.
    """
    counts, size = _count(model), sizes.product
    language: Any = model.language
    table, head = counts.table if run.parallel.reshard else 0, counts.head if counts.table else 0
    end = size * (counts.outside - head)
    outside = end - size * table
    end_learns = counts.outside_learns - head * is_trained(language.get_output_embeddings())
    learns = end_learns - table * is_trained(language.get_input_embeddings())
    blocks = size * counts.block * (2 if run.parallel.reshard else counts.layers)
    sent = size + 4  # a gradient as it was computed, and in float32 for the sum over GPUs
    return (
        outside + size * head + (0 if run.parallel.reshard else blocks),
        outside + blocks + size * learns + sent * counts.block_learns,
        end + sent * end_learns,
    )


def _decoder_blocks(run: Run, model: Llava, sizes: Sizes) -> Blocks:
    config = _dimensions(model.language.config)
    heads, width, count = (
        config[name] for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    head = config.get("head_dim") or width // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    inner = config.get("intermediate_size") or 4 * width
    lora, decoder = run.model.lora, model.language.get_decoder()
    layer = _layer_bytes(
        width, heads * head, keys, inner, sizes, trained=lora is None and is_trained(decoder)
    )
    if lora is not None:
        adapters = [each for each in decoder.modules() if isinstance(each, nn.Linear) and is_trained(each)]
        down = [each for each in adapters if each.out_features == lora.r]
        layer += sum(each.out_features for each in down) * sizes.product / count
        if (
            sizes.casts or lora.dropout
        ):  # each takes its input in its own way: cast, or with some numbers dropped
            layer += sum(each.in_features for each in down) * (sizes.product + (lora.dropout > 0)) / count
        else:
            layer += sizes.product * (2 * width + heads * head + inner)
    return _blocks(run, run.data.tokens, count, layer, sizes.stream * width)


def _tower_blocks(run: Run, model: Llava, sizes: Sizes) -> Blocks:
    tower = model.tower
    if not is_trained(tower):
        return Blocks(0.0, 0.0)
    if not isinstance(tower, ViTTower):
        raise ConfigError(
            "train includes a convolutional tower, whose activations llavakit does not estimate"
        )
    config = tower.vision.config
    width = config.hidden_size
    # Two norms with what products take of them, five rows of attention, three of a plain MLP.
    layer = 2 * width * sizes.stream + sizes.product * (7 * width + 3 * config.intermediate_size)
    rows = run.data.tokens * tower_rows(run, model)
    return _blocks(run, rows, tower.num_layers, layer, sizes.stream * width)


def _blocks(run: Run, rows: float, layers: int, layer: float, ahead: float) -> Blocks:
    """Checkpointing keeps what goes into each block (`ahead` bytes a row), and computes one block again."""
    if run.checkpointing:
        return Blocks(rows * layers * ahead, rows * layer)
    return Blocks(rows * layers * layer, 0.0)


def _layer_bytes(width: int, queries: int, keys: int, inner: int, sizes: Sizes, *, trained: bool) -> float:
    """Per token of one block.

    Two norms: the input in float32; where weights learn, also what is scaled by them and what products take of it.
    Attention: rotated queries and keys, values, what comes out, and that as the output matrix takes it. MLP: gate,
    its activation, up, and their product for the last matrix.
    """
    if not trained:
        return 8 * width + sizes.product * (2 * queries + 2 * keys + 3 * inner)
    return 2 * width * (4 + sizes.stream) + sizes.product * (2 * width + 3 * queries + 3 * keys + 4 * inner)


def _around_blocks(run: Run, model: Llava, sizes: Sizes) -> float:
    """Embeddings with pictures put in, the last norm, and the connector's rows."""
    width = _dimensions(model.language.config)["hidden_size"]
    tokens = run.data.tokens * width * (3 * sizes.stream + 4 + sizes.product)
    rows = 4 * model.tower.width + sizes.product * width
    if is_trained(model.connector) or is_trained(model.tower):
        rows += sizes.product * (model.tower.width + 2 * width)
    return tokens + run.data.tokens * tower_rows(run, model) * rows


def _numel(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _dimensions(config: PreTrainedConfig) -> dict[str, int]:
    """A decoder's settings by the names Llama's have, whatever its own class calls them."""
    found = config.to_dict()
    return {
        **found,
        **{ours: found[theirs] for ours, theirs in config.attribute_map.items() if theirs in found},
    }
