"""Objectives: what a run minimises. Each returns sums; the loop divides them by what the step has of their unit."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.fused_loss import fused_cross_entropy
from llavakit.train.losses import weighted_cross_entropy
from llavakit.train.ranks import Ranks

Totals = dict[str, float]  # unit -> how much of it a step has


@dataclass(frozen=True)
class LossSum:
    """Differentiable sums by their unit, and further sums to be reported per unit."""

    terms: dict[str, Tensor]
    report: dict[str, tuple[str, Tensor]] = field(default_factory=dict)  # name -> (unit, sum)
    ranges: dict[str, Tensor] = field(default_factory=dict)  # name -> values whose extremes are reported
    # name -> values of which is reported what 99 % do not exceed, on the rank where that is most
    tails: dict[str, Tensor] = field(default_factory=dict)
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

        def look(rows_LD: Tensor) -> tuple[Tensor, Tensor]:
            # One whose numbers are packed has its own way to multiply.
            if torch.is_grad_enabled() and type(head).forward is nn.Linear.forward:
                return fused_cross_entropy(rows_LD, batch.labels_L, batch.weights_L, head, model.compiler)
            return weighted_cross_entropy(rows_LD, batch.labels_L, batch.weights_L, model.logits)

        loss, hits = model.with_head(look, hidden_LD)
        return LossSum({"tokens": loss}, {"accuracy": ("tokens", hits)})


def add_totals(each: Iterable[Totals], ranks: Ranks) -> Totals:
    """How much of each unit there is in all, over all ranks; every rank has at least one to add."""
    totals: Totals = defaultdict(float)
    for weights in each:
        for unit, weight in weights.items():
            totals[unit] += weight
    return dict(zip(totals, ranks.sums(list(totals.values())), strict=True))


class Tally:
    """Adds up what the batches of a step, or of an evaluation, gave, on their device: nobody waits for it."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Tensor] = {}  # (name, unit) -> sum
        self._ranges: dict[str, Tensor] = {}  # name -> minus the lowest, the highest
        self._tails: dict[str, list[Tensor]] = {}  # name -> all values
        self._products: dict[str, Tensor] = {}  # name -> sums of x x, y y and x y

    def add(self, found: LossSum) -> None:
        for unit, term in found.terms.items():
            self._count("loss", unit, term)
        for name, (unit, value) in found.report.items():
            self._count(name, unit, value)
        for name, values in found.ranges.items():
            nowhere = torch.full((2,), -math.inf, dtype=torch.float64, device=values.device)
            ends = torch.stack([-values.min(), values.max()]).double() if len(values) else nowhere
            self._ranges[name] = torch.maximum(self._ranges.get(name, nowhere), ends.detach())
        for name, values in found.tails.items():
            self._tails.setdefault(name, []).append(values.detach())
        for name, (x, y) in found.related.items():
            products = torch.stack([x @ x, y @ y, x @ y]).double().detach()
            self._products[name] = self._products.get(name, torch.zeros_like(products)) + products

    def _count(self, name: str, unit: str, value: Tensor) -> None:
        more = value.detach().double()
        self._sums[name, unit] = self._sums.get((name, unit), torch.zeros_like(more)) + more

    def figures(self, totals: Totals, ranks: Ranks) -> dict[str, float]:
        """`loss` and what was reported, per unit, over all ranks; what has nothing of its unit is left out."""
        sums = ranks.sums(_numbers(self._sums))
        figures: dict[str, float] = {}
        for (name, unit), total in zip(self._sums, sums, strict=True):
            if totals[unit]:
                figures[name] = figures.get(name, 0.0) + total / totals[unit]
        for name, ends in self._ranges.items():
            low, high = ranks.highest(ends.tolist())
            if high > -math.inf:
                figures |= {f"{name}_lowest": -low, f"{name}_highest": high}
        for name, parts in self._tails.items():
            [high] = ranks.highest([tail(torch.cat(parts))])
            if high > -math.inf:
                figures[name] = high
        for name, products in self._products.items():
            xx, yy, xy = ranks.sums(products.tolist())
            if xx and yy:
                figures[name] = xy / math.sqrt(xx * yy)
        return figures


def tail(values: Tensor) -> float:
    """What 99 % of the values do not exceed; minus infinity where there are none."""
    return float(values.quantile(0.99)) if len(values) else -math.inf


def _numbers(tensors: Mapping[tuple[str, str], Tensor]) -> list[float]:
    """All of them at once: one wait for the device."""
    found: list[float] = torch.stack(list(tensors.values())).tolist() if tensors else []
    return found
