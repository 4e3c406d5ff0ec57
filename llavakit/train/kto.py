"""Learning from single answers that are wanted or not (KTO), against the model that a run starts from.

A sample is a prompt with its answers and, as the last leaf, an answer to another prompt: how much likelier such
answers have become is the estimate of the divergence that both losses are measured from. Image and prompt are
computed once for all of them. The estimate is the mean over a whole step and all ranks, so it is found before the
first loss of a step, together with what the reference gives.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llavakit.core.types import MARKS, Batch
from llavakit.model.llava import Llava
from llavakit.train.answers import answer_logprobs, per_answer
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.objectives import LossSum, Totals
from llavakit.train.pair_losses import kto, kto_reference
from llavakit.train.ranks import Ranks
from llavakit.train.reference import Reference

REFERENCE, DIVERGENCE = "reference", "divergence"  # columns that a step adds to its batches


class Kto:
    """The objective: the mean loss of the step's answers, wanted and unwanted ones times their weights."""

    def __init__(self, config: KtoConfig, reference: Reference) -> None:
        self.config, self.reference = config, reference

    def weights(self, batch: Batch) -> Totals:
        """An answer to another prompt is no answer to learn from."""
        marks_A = per_answer(batch, MARKS)
        wanted, unwanted = float((marks_A == 1).sum()), float((marks_A == 0).sum())
        return {"answers": wanted + unwanted, "wanted": wanted, "unwanted": unwanted}

    @torch.no_grad()
    def prepare(self, model: Llava, batches: Sequence[Batch], ranks: Ranks) -> list[Batch]:
        """The batches with what the reference gives for each answer, and the step's estimate of the divergence."""
        found, ratio, count = [], 0.0, 0.0
        for batch in batches:
            moved = batch.to(model.device)
            ref_A = self.reference.logprobs(model, moved, 1.0)
            logprobs_A, _ = answer_logprobs(model, moved, 1.0)
            others_A = (logprobs_A - ref_A)[per_answer(moved, MARKS) < 0]
            ratio, count = ratio + float(others_A.sum()), count + len(others_A)
            found.append(ref_A)
        ratio, count = ranks.sums([ratio, count])
        divergence = kto_reference(torch.tensor([ratio / count])) if count else torch.tensor(0.0)
        return [
            replace(batch, columns={**batch.columns, **_columns(batch, ref_A, float(divergence))})
            for batch, ref_A in zip(batches, found, strict=True)
        ]

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        logprobs_A, _ = answer_logprobs(model, batch, 1.0)
        marks_A, ref_A, divergence_A = (per_answer(batch, name) for name in (MARKS, REFERENCE, DIVERGENCE))
        ratio_A, judged_A = logprobs_A - ref_A, marks_A >= 0
        divergence = divergence_A.amax() if len(divergence_A) else divergence_A.sum()
        wanted_A, unwanted_A = kto(
            ratio_A[marks_A == 1], ratio_A[marks_A == 0], divergence, beta=self.config.beta
        )
        total = (
            self.config.desirable_weight * wanted_A.sum() + self.config.undesirable_weight * unwanted_A.sum()
        )
        rewards_A = self.config.beta * ratio_A.detach()
        right_A = ((ratio_A.detach() > divergence) == (marks_A == 1)) & judged_A
        report = {
            "rewards/chosen": ("wanted", rewards_A[marks_A == 1].sum()),
            "rewards/rejected": ("unwanted", rewards_A[marks_A == 0].sum()),
            "rewards/accuracies": ("answers", right_A.float().sum()),
            "kl": ("answers", divergence * judged_A.sum()),
        }
        # An answer to another prompt takes part without weight: every rank has a gradient of the same parts.
        return LossSum({"answers": total + 0 * logprobs_A.sum()}, report)


def _columns(batch: Batch, ref_A: Tensor, divergence: float) -> dict[str, Tensor]:
    ref_L = ref_A.to(batch.answers_L.device)[batch.answers_L]
    return {REFERENCE: ref_L, DIVERGENCE: torch.full_like(ref_L, divergence)}
