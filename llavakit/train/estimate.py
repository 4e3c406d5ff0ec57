"""How much memory a run takes: exact for what is kept between steps, a formula for what a step needs.

The formula counts what the backward pass keeps of one packed row: a layer of a Llama-like decoder keeps, per token,
of the residual stream in float32 what two norms need (16 D bytes and their results), queries, keys and values
before and after rotation with the attended values (3 Q + 3 K numbers), and four rows of the MLP's width I. It is
not exact: allocators keep more, and attention kernels differ.
"""

from typing import NamedTuple

from torch import nn

from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.train.losses import WHOLE
from llavakit.train.run import Run

NF4 = 0.52  # bytes a weight in four bits, with its share of the quantized scales


class Memory(NamedTuple):
    """Bytes on one device."""

    weights: float
    gradients: float
    moments: float  # AdamW's two, float32
    average: float  # of optim.ema
    activations: float  # of one packed row
    logits: float

    @property
    def kept(self) -> float:
        """What FSDP spreads over the GPUs."""
        return self.weights + self.gradients + self.moments + self.average

    def per_gpu(self, gpus: int) -> float:
        """With everything kept spread over so many GPUs; each works on a row of its own."""
        return self.kept / gpus + self.activations + self.logits


def estimate_memory(run: Run, model: Llava) -> Memory:
    """For `model` (numbers are not needed, see outline.py) with the parts of `run` frozen."""
    learned = [p for p in model.parameters() if p.requires_grad]
    trained = sum(p.numel() for p in learned)
    size = 2 if run.precision == "bf16" else 4
    config = model.language.config.to_dict()
    tokens = run.data.tokens
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    layer = _layer_bytes(
        config["hidden_size"],
        heads * head,
        (config.get("num_key_value_heads") or heads) * head,
        config["intermediate_size"],
        size,
    )
    activations = tokens * _kept(config["num_hidden_layers"], layer, config["hidden_size"], run)
    if isinstance(model.tower, ViTTower) and any(p.requires_grad for p in model.tower.parameters()):
        vision = model.tower.vision.config
        width = vision.hidden_size
        # As many feature rows as tokens: a row full of pictures.
        layer = _layer_bytes(width, width, width, vision.intermediate_size, size)
        activations += tokens * _kept(model.tower.num_layers, layer, width, run)
    if size == 2:
        activations += 2 * trained  # autocast keeps its bf16 copies of what learns
    return Memory(
        weights=_weight_bytes(run, model),
        gradients=sum(p.numel() * p.element_size() for p in learned),
        moments=8 * trained,
        average=4 * trained if run.optim.ema is not None else 0,
        activations=activations,
        logits=min(tokens, WHOLE) * config["vocab_size"] * (size + 8),
    )


def _kept(layers: int, layer: float, width: int, run: Run) -> float:
    """Bytes per token of so many layers. Checkpointing keeps what goes into each, and one computed again."""
    return 4 * width * layers + layer if run.checkpointing else layers * layer


def _layer_bytes(width: int, queries: int, keys: int, inner: int, size: int) -> float:
    """Per token; `size` bytes a number in products."""
    return 16 * width + size * (2 * width + 3 * queries + 3 * keys + 4 * inner)


def _weight_bytes(run: Run, model: Llava) -> float:
    total = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    if run.model.lora is not None and run.model.lora.four_bit:
        for layer in model.language.get_decoder().modules():
            if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
                total -= layer.weight.numel() * (layer.weight.element_size() - NF4)
    return total
