"""Learning from pairs of answers (DPO and its family): a weighted list of losses, against the model it starts from.

A pair is one prompt with two leaves, chosen and rejected in this order; image and prompt are computed once.
"""

import torch
from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.losses import token_logprobs
from llavakit.train.objectives import LossSum, Totals
from llavakit.train.pair_losses import PAIR_LOSSES, Pairs, pair_metrics
from llavakit.train.pair_settings import SFT_TERM, PreferenceConfig
from llavakit.train.reference import Reference


class Preference:
    """The objective: every term of the list, times its weight, per pair (the likelihood per chosen token)."""

    def __init__(self, config: PreferenceConfig, reference: Reference | None) -> None:
        """`reference` may be None where no term of the list asks for one."""
        self.config, self.reference = config, reference

    def weights(self, batch: Batch) -> Totals:
        return {
            "pairs": float(num_answers(batch) // 2), "tokens": float((batch.answers_L % 2 == 0).sum()),
        }  # fmt: skip

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        if not num_answers(batch):  # nothing but a place in the row of ranks
            zero = model.hidden(batch).sum() * 0
            return LossSum({"pairs": zero, "tokens": zero})
        reference_A = None
        if self.reference is not None:  # first: its weights stand in the model's place for a moment
            with self.reference.in_place(model), torch.no_grad():
                reference_A, _ = answer_logprobs(model, batch, self.config.length_weight)
        logprobs_A, tokens_A = answer_logprobs(model, batch, self.config.length_weight)
        ref_A = torch.zeros_like(logprobs_A) if reference_A is None else reference_A
        pairs = Pairs(
            logprobs_A[0::2], logprobs_A[1::2], ref_A[0::2], ref_A[1::2], tokens_A[0::2], tokens_A[1::2]
        )
        return self._sums(pairs)

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
        report["tokens_chosen_more"] = ("pairs", (pairs.chosen_tokens_P - pairs.rejected_tokens_P).sum())
        return LossSum(terms, report)


def num_answers(batch: Batch) -> int:
    """Leaves of the row that something is learned of."""
    return int(batch.answers_L.max()) + 1 if len(batch.answers_L) else 0


def answer_logprobs(model: Llava, batch: Batch, length_weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """(summed log-probability, number of learned tokens) of every answer of the row, float32[A] each.

    With `length_weight` below 1 the tokens of a pair's longer answer beyond the shorter one's length count so much
    (LD-DPO). A token also counts its own weight.
    """
    hidden_LD = model.hidden(batch)[batch.predict_L]
    logprobs_L, _ = token_logprobs(hidden_LD, batch.labels_L, model.logits)
    answers_L = batch.answers_L
    tokens_A = torch.bincount(answers_L, minlength=num_answers(batch)).float()
    weights_L = batch.weights_L
    if length_weight != 1:
        first_A = (
            tokens_A.cumsum(0) - tokens_A
        )  # an answer's tokens stand together, in the order of the answers
        place_L = torch.arange(len(answers_L), device=answers_L.device) - first_A[answers_L]
        shorter_A = tokens_A.view(-1, 2).amin(dim=1).repeat_interleave(2)
        weights_L = torch.where(place_L < shorter_A[answers_L], weights_L, weights_L * length_weight)
    zeros_A = torch.zeros_like(tokens_A)
    return zeros_A.index_add(0, answers_L, logprobs_L * weights_L), tokens_A
