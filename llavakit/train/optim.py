"""AdamW with a learning rate per part of the model, warm-up and cosine decay."""

import math
from typing import Annotated

from pydantic import Field, model_validator
from torch.optim import AdamW

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.model.llava import PARTS, Llava
from llavakit.train.guard import OnSpike

Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class LearningRates(Config):
    """Peak learning rate of each part that is trained; one number is that of all parts."""

    tower: Rate = 2e-6
    connector: Rate = 2e-5
    language: Rate = 2e-5
    newline: Rate = 2e-5  # released code trains it with the language model

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, int | float | str) else value


class OptimConfig(Config):
    """Defaults are the released LLaVA-1.5 stage-2 settings."""

    lr: LearningRates = Field(default_factory=LearningRates)
    rows: int = Field(1, ge=1)  # packed rows per step: gradient accumulation, exact for any split
    steps: int | None = Field(None, ge=1)  # default: as many as `epochs` gives
    epochs: float = Field(1.0, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)  # fraction of the steps
    final: float = Field(0.0, ge=0, le=1)  # the cosine ends at this fraction of the peak
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)  # gradient norm; 0 turns clipping off
    on_spike: OnSpike = "log"  # skip: leave a step out whose loss or gradient stands far out
    ema: float | None = Field(None, gt=0, lt=1)  # decay of a running average of the weights, as 0.999


def build_optimizer(model: Llava, config: OptimConfig) -> AdamW:
    """One group per part and decay. Norms and biases (vectors) are never decayed."""
    rates = config.lr.model_dump()
    learning = [name for name in PARTS if any(p.requires_grad for p in model.part(name).parameters())]
    if all(rates[name] == 0 for name in learning):
        raise ConfigError(f"optim.lr is 0 for {' and '.join(learning)}: nothing would learn")
    groups = []
    for name in PARTS:
        params = [p for p in model.part(name).parameters() if p.requires_grad]
        peak = rates[name]
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
