"""Learning what answers are worth from pairs of them (Bradley-Terry): one number where a grade would begin.

A pair is one prompt with two leaves, chosen and rejected in this order; image and prompt are computed once.
"""

import torch
from torch import Tensor

from llavakit.core.types import MARKS, Batch
from llavakit.data.facts import Facts
from llavakit.data.grader import Grader
from llavakit.model.llava import Llava
from llavakit.train.answers import num_answers, per_answer
from llavakit.train.objectives import LossSum, Separate, Totals
from llavakit.train.pair_losses import center_absolute, center_squared, reward_loss
from llavakit.train.reward_settings import RewardModelConfig


def open_grader(config: RewardModelConfig | None, seed: int) -> Grader | None:
    """What puts the answers of the data before a reward model; reads the files that the settings name."""
    if config is None:
        return None
    facts = None if config.facts is None else Facts(config.facts)
    return Grader(config.grading(), facts, seed, config.margin_field)


def answer_scores(model: Llava, batch: Batch) -> Tensor:
    """float32[A]: the reward of every answer of the row, read before its last token (`Encoder.encode_graded`)."""
    return model.score(model.hidden(batch)[batch.ends_A])


class RewardPairs(Separate):
    """The objective: the better answer shall have the higher reward, and rewards shall lie around zero."""

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config

    def weights(self, batch: Batch) -> Totals:
        return {"pairs": float(num_answers(batch) // 2)}

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        """A row of no pairs takes the same way, so that every rank has a gradient of the same parts."""
        scores_A = answer_scores(model, batch)
        chosen_P, rejected_P = scores_A[0::2], scores_A[1::2]
        loss = reward_loss(chosen_P, rejected_P, margin_P=self._margins(batch, chosen_P)).sum()
        loss = loss + self._centering(chosen_P, rejected_P)
        difference_P = (chosen_P - rejected_P).detach()
        report = {
            "accuracy": ("pairs", (difference_P > 0).float().sum()),
            "score_chosen": ("pairs", chosen_P.sum()),
            "score_rejected": ("pairs", rejected_P.sum()),
        }
        ends_A = batch.positions_T[batch.ends_A].float()
        related = {"length_correlation": (difference_P, ends_A[0::2] - ends_A[1::2])}
        return LossSum({"pairs": loss}, report, ranges={"score": scores_A.detach()}, related=related)

    def _margins(self, batch: Batch, chosen_P: Tensor) -> Tensor | None:
        """By how much each pair's better answer shall win; None: by anything."""
        if not self.config.margin:
            return None
        if self.config.margin_field is None:
            return torch.full_like(chosen_P, self.config.margin)
        return self.config.margin * per_answer(batch, MARKS)[0::2]

    def _centering(self, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        """Summed over pairs. `absolute` looks at all pairs of the row, and counts once for each."""
        if self.config.center == "none" or not len(chosen_P):
            return chosen_P.sum() * 0
        if self.config.center == "squared":
            return self.config.center_weight * center_squared(chosen_P, rejected_P).sum()
        return self.config.center_weight * center_absolute(chosen_P, rejected_P) * len(chosen_P)
