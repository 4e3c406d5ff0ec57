"""Spikes: steps whose loss or gradient stands far out of what the run has seen lately, or is not finite.

The LLaVA-NeXT ablation study ties loss spikes to worse models. A step is judged before it is applied.
"""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from llavakit.core.errors import UserError
from llavakit.core.progress import say

OnSpike = Literal["log", "skip"]
WINDOW = 64  # steps a value is compared with
FEWEST = 16  # steps before anything is called a spike: a run's start is steep
DEVIATIONS = 10  # median absolute deviations above the median ...
RISE = 0.5  # ... and at least this fraction of the median: a quiet run has tiny deviations
LIMIT = 20  # steps left out in a row before the run stops


@dataclass(frozen=True)
class Verdict:
    """Whether the step is applied, and what the metrics say about it (nothing about an ordinary step)."""

    skip: bool = False
    row: dict[str, object] = field(default_factory=dict)


@dataclass
class Guard:
    """Loss and gradient norm of the newest steps, and counts. Saved with a run: a resumed one judges alike."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    spikes: int = 0
    skipped: int = 0
    in_a_row: int = 0  # skipped since the last step that was applied

    def judge(self, step: int, loss: float, norm: float, on_spike: OnSpike, *, falls: bool = True) -> Verdict:
        """Look at step number `step` before it is applied. `norm` is that of the gradient before clipping.

        A loss that does not fall, as a policy's, which lies around zero, is held against none before it.
        A spike enters the history too, so a run whose loss stays high is no spike after a while. What is not finite
        never enters, and cannot be applied: it stops the run, or is left out if `on_spike` is skip.
        """
        finite = math.isfinite(loss) and math.isfinite(norm)
        told = [] if finite else ["not finite"]
        if finite:
            watched = [("loss", loss, self.losses), ("norm", norm, self.norms)]
            for name, value, before in watched if falls else watched[1:]:
                if _stands_out(value, before):
                    told.append(f"{name} {value:.3g}, median {median(before):.3g}")
                before.append(value)
                del before[:-WINDOW]
        if not told:
            self.in_a_row = 0
            return Verdict()
        what = "; ".join(told)
        if not finite and on_spike == "log":
            raise UserError(
                f"step {step}: loss {loss:g}, gradient {norm:g}: not finite; lower optim.lr, check the data, "
                "or leave such steps out with optim.on_spike=skip"
            )
        self.spikes += 1
        if on_spike == "log":
            say(f"step {step}: spike: {what}")
            return Verdict(row={"spike": what})
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > LIMIT:
            raise UserError(f"step {step}: {LIMIT} steps in a row were spikes ({what}); lower optim.lr")
        say(f"step {step}: spike: {what}; step left out ({self.skipped} so far)")
        return Verdict(skip=True, row={"spike": what, "skipped": True})


def _stands_out(value: float, before: list[float]) -> bool:
    if len(before) < FEWEST:
        return False
    middle = median(before)
    deviation = median(abs(other - middle) for other in before)
    return value > middle + max(DEVIATIONS * deviation, RISE * abs(middle))
