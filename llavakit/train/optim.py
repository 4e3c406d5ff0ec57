"""AdamW with a learning rate per part of the model, warm-up and decay."""

import math

from torch.optim import AdamW

from llavakit.core.errors import ConfigError
from llavakit.model.llava import PARTS, Llava
from llavakit.train.settings import OptimConfig
from llavakit.train.small_moments import SmallAdamW


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
    if config.moments != "float32":
        return SmallAdamW(groups, config.moments, betas=config.betas)
    # The fused kernel updates a parameter in one pass over memory instead of about ten.
    return AdamW(groups, betas=config.betas, fused=True)


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """The fraction of the peak at 0-based `step`: linear warm-up, then down to `final`; again in each cycle."""
    each = math.ceil(steps / config.cycles)
    cycle, step = divmod(step, each)
    steps = min(each, steps - cycle * each)
    warm = math.ceil(config.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    left = 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final + (1 - config.final) * left


def set_rates(optimizer: AdamW, fraction: float) -> dict[str, float]:
    """Apply the schedule; returns the rate of each part."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * fraction
        rates[group["part"]] = group["lr"]
    return rates
