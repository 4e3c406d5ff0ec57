"""AdamW with a learning rate per part of the model, warm-up and cosine decay."""

import math

from pydantic import Field
from torch.optim import AdamW

from llavakit.core.config import Config
from llavakit.model.llava import PARTS, Llava
from llavakit.train.guard import OnSpike


class LearningRates(Config):
    """Peak learning rate of each part that is trained."""

    tower: float = 2e-6
    connector: float = 2e-5
    language: float = 2e-5
    newline: float = 2e-5  # released code trains it with the language model


class OptimConfig(Config):
    """Defaults are the released LLaVA-1.5 stage-2 settings."""

    lr: LearningRates = Field(default_factory=LearningRates)
    rows: int = 1  # packed rows per step: gradient accumulation, exact for any split
    steps: int | None = None  # default: as many as `epochs` gives
    epochs: float = 1.0
    warmup: float = 0.03  # fraction of the steps
    final: float = 0.0  # the cosine ends at this fraction of the peak
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm; 0 turns clipping off
    on_spike: OnSpike = "log"  # skip: leave a step out whose loss or gradient stands far out
    ema: float | None = Field(None, gt=0, lt=1)  # decay of a running average of the weights, as 0.999


def build_optimizer(model: Llava, config: OptimConfig) -> AdamW:
    """One group per part and decay. Norms and biases (vectors) are never decayed."""
    groups = []
    for name in PARTS:
        params = [p for p in model.part(name).parameters() if p.requires_grad]
        peak = config.lr.model_dump()[name]
        for decay, chosen in (
            (config.weight_decay, [p for p in params if p.ndim > 1]),
            (0.0, [p for p in params if p.ndim <= 1]),
        ):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay, "part": name}
                )
    # The fused kernel updates a parameter in one pass over memory instead of about ten.
    return AdamW(groups, betas=config.betas, fused=True)


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """The fraction of the peak at 0-based `step`: linear warm-up, then a cosine down to `final`."""
    warm = math.ceil(config.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizer: AdamW, fraction: float) -> dict[str, float]:
    """Apply the schedule; returns the rate of each part."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * fraction
        rates[group["part"]] = group["lr"]
    return rates
