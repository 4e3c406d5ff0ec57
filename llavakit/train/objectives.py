"""Objectives: what a run minimises. Each returns sums; the loop divides by the weight of the whole step."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.losses import weighted_cross_entropy


@dataclass(frozen=True)
class LossSum:
    """A differentiable sum, and further sums to be reported per unit of weight."""

    loss: Tensor
    report: dict[str, Tensor]


class Objective(Protocol):
    def weight(self, batch: Batch) -> float:
        """How much the batch counts: learned tokens for SFT, pairs for preferences."""
        ...

    def loss(self, model: Llava, batch: Batch) -> LossSum: ...


class SFT:
    """Next-token loss on the learned tokens only (answers and their end markers)."""

    def weight(self, batch: Batch) -> float:
        return batch.weight

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        hidden_LD = model.hidden(batch)[batch.predict_L]
        loss, hits = weighted_cross_entropy(hidden_LD, batch.labels_L, batch.weights_L, model.logits)
        return LossSum(loss, {"accuracy": hits})
