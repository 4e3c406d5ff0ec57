"""Objectives: what a run minimises. Each returns sums; the loop divides them by what the step has of their unit."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.fused_loss import fused_cross_entropy
from llavakit.train.losses import weighted_cross_entropy
from llavakit.train.ranks import Ranks

NOWHERE = (-math.inf, -math.inf)
Totals = dict[str, float]  # unit -> how much of it a step has


@dataclass(frozen=True)
class LossSum:
    """Differentiable sums by their unit, and further sums to be reported per unit."""

    terms: dict[str, Tensor]
    report: dict[str, tuple[str, Tensor]] = field(default_factory=dict)  # name -> (unit, sum)
    ranges: dict[str, Tensor] = field(default_factory=dict)  # name -> values whose extremes are reported
    # name -> two columns of differences; reported is how they go together, -1 to 1
    related: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def share(self, totals: Totals) -> Tensor:
        """What this batch adds to the loss of a step: every sum divided by the step's total of its unit."""
        shares = [term / totals[unit] for unit, term in self.terms.items() if totals[unit]]
        return sum(shares[1:], start=shares[0])


class Objective(Protocol):
    """The loss of a step is the sum over units of (sum of the unit's terms / how much of the unit the step has)."""

    def weights(self, batch: Batch) -> Totals:
        """How much of each unit the batch has: learned tokens for SFT, pairs for preferences."""
        ...

    def prepare(self, model: Llava, batches: Sequence[Batch], ranks: Ranks) -> Sequence[Batch]:
        """The batches of a step with what their losses must know of all of them. Every rank calls it."""
        ...

    def loss(self, model: Llava, batch: Batch) -> LossSum: ...


class Separate:
    """Objectives whose batches need to know nothing of each other."""

    def prepare(self, model: Llava, batches: Sequence[Batch], ranks: Ranks) -> Sequence[Batch]:
        """The batches as they are."""
        return batches


class SFT(Separate):
    """Next-token loss on the learned tokens only (answers and their end markers)."""

    def weights(self, batch: Batch) -> Totals:
        return {"tokens": batch.weight}

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        hidden_LD = model.hidden(batch)[batch.predict_L]
        head = model.language.get_output_embeddings()
        if torch.is_grad_enabled() and type(head) is nn.Linear:  # a packed one has its own way to multiply
            loss, hits = fused_cross_entropy(hidden_LD, batch.labels_L, batch.weights_L, head)
        else:
            loss, hits = weighted_cross_entropy(hidden_LD, batch.labels_L, batch.weights_L, model.logits)
        return LossSum({"tokens": loss}, {"accuracy": ("tokens", hits)})


def add_totals(each: Iterable[Totals], ranks: Ranks) -> Totals:
    """How much of each unit there is in all, over all ranks; every rank has at least one to add."""
    totals: Totals = defaultdict(float)
    for weights in each:
        for unit, weight in weights.items():
            totals[unit] += weight
    return dict(zip(totals, ranks.sums(list(totals.values())), strict=True))


class Tally:
    """Adds up what the batches of a step, or of an evaluation, gave."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], float] = defaultdict(float)  # (name, unit) -> sum
        self._ranges: dict[str, tuple[float, float]] = {}  # name -> (minus the lowest, the highest)
        self._products: dict[str, list[float]] = {}  # name -> sums of x x, y y and x y

    def add(self, found: LossSum) -> None:
        for unit, term in found.terms.items():
            self._sums["loss", unit] += float(term.detach())
        for name, (unit, value) in found.report.items():
            self._sums[name, unit] += float(value.detach())
        for name, values in found.ranges.items():
            low, high = (-float(values.min()), float(values.max())) if len(values) else NOWHERE
            before = self._ranges.get(name, NOWHERE)
            self._ranges[name] = max(low, before[0]), max(high, before[1])
        for name, (x, y) in found.related.items():
            more = [float(x @ x), float(y @ y), float(x @ y)]
            self._products[name] = [
                sum(each) for each in zip(more, self._products.get(name, [0.0] * 3), strict=True)
            ]

    def figures(self, totals: Totals, ranks: Ranks) -> dict[str, float]:
        """`loss` and what was reported, per unit, over all ranks; what has nothing of its unit is left out."""
        sums = ranks.sums(list(self._sums.values()))
        figures: dict[str, float] = {}
        for (name, unit), total in zip(self._sums, sums, strict=True):
            if totals[unit]:
                figures[name] = figures.get(name, 0.0) + total / totals[unit]
        for name, ends in self._ranges.items():
            low, high = ranks.highest(ends)
            if high > -math.inf:
                figures |= {f"{name}_lowest": -low, f"{name}_highest": high}
        for name, products in self._products.items():
            xx, yy, xy = ranks.sums(products)
            if xx and yy:
                figures[name] = xy / math.sqrt(xx * yy)
        return figures
