"""Learning from pairs of answers (DPO and its family): a weighted list of losses, against the model it starts from.

A pair is one prompt with two leaves, chosen and rejected in this order; image and prompt are computed once.
"""

from dataclasses import replace

import torch
from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.answers import count_tokens, learned_logprobs, num_answers, sum_answers
from llavakit.train.freezing import is_trained
from llavakit.train.objectives import LossSum, Separate, Totals
from llavakit.train.pair_losses import PAIR_LOSSES, Pairs, pair_metrics
from llavakit.train.pair_settings import SFT_TERM, PreferenceConfig
from llavakit.train.reference import Reference


class Preference(Separate):
    """The objective: every term of the list, times its weight, per pair (the likelihood per chosen token)."""

    def __init__(self, config: PreferenceConfig, reference: Reference | None) -> None:
        """`reference` may be None where no term of the list asks for one."""
        self.config, self.reference = config, reference

    def weights(self, batch: Batch) -> Totals:
        chosen_L = batch.answers_L % 2 == 0
        return {"pairs": float(num_answers(batch) // 2), "tokens": float(batch.weights_L[chosen_L].sum())}

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        """A row of no pairs takes the same way, so that every rank has a gradient of the same parts."""
        reference_A = None
        batch = see_once(model, batch)
        if self.reference is not None:  # first: its weights may stand in the model's place for a moment
            reference_A = self.reference.logprobs(model, batch, self.config.length_weight)
        logprobs_L = learned_logprobs(model, batch)
        logprobs_A = sum_answers(logprobs_L, batch, self.config.length_weight)
        tokens_A = sum_answers(torch.ones_like(logprobs_L), batch)
        ref_A = torch.zeros_like(logprobs_A) if reference_A is None else reference_A
        pairs = Pairs(
            logprobs_A[0::2], logprobs_A[1::2], ref_A[0::2], ref_A[1::2], tokens_A[0::2], tokens_A[1::2]
        )
        found = self._sums(pairs)
        counts_A = count_tokens(batch)
        return replace(found, report=found.report | _lengths(counts_A) | _ends(logprobs_L, counts_A))

    def _sums(self, pairs: Pairs) -> LossSum:
        terms = {"pairs": pairs.chosen_P.sum() * 0, "tokens": pairs.chosen_P.sum() * 0}
        report: dict[str, tuple[str, Tensor]] = {}
        for name, weight in self.config.loss.items():
            unit = "tokens" if name == SFT_TERM else "pairs"
            value = -pairs.chosen_P.sum() if name == SFT_TERM else PAIR_LOSSES[name](pairs, self.config).sum()
            terms[unit] = terms[unit] + weight * value
            report[f"loss_{name}"] = (unit, value)
        report |= {
            name: ("pairs", value.sum()) for name, value in pair_metrics(pairs, self.config.beta).items()
        }
        report["logprob_chosen"] = ("tokens", pairs.chosen_P.sum())
        report["logprob_rejected"] = ("pairs", pairs.rejected_mean_P.sum())
        return LossSum(terms, report)


def see_once(model: Llava, batch: Batch) -> Batch:
    """The batch with what a frozen tower gives for its tiles, which policy and reference then share."""
    if is_trained(model.tower):
        return batch
    with torch.no_grad():
        return replace(batch, features_RC=model.features(batch), pixels=())


def _ends(logprobs_L: Tensor, tokens_A: Tensor) -> dict[str, tuple[str, Tensor]]:
    """How likely answers end where they do; of rejected ones it must not fall far, or the model forgets to end."""
    ends_A = logprobs_L.detach()[tokens_A.long().cumsum(0) - 1]
    return {
        "end_chosen": ("pairs", ends_A[0::2].sum()),
        "end_rejected": ("pairs", ends_A[1::2].sum()),
    }


def _lengths(tokens_A: Tensor) -> dict[str, tuple[str, Tensor]]:
    """How much longer chosen answers are: in tokens, and as a ratio."""
    chosen_P, rejected_P = tokens_A[0::2], tokens_A[1::2]
    return {
        "tokens_chosen_more": ("pairs", (chosen_P - rejected_P).sum()),
        "length_ratio": ("pairs", (chosen_P / rejected_P).sum()),
    }
