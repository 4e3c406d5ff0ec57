"""Learning from scored answers (PPO, GRPO and kin): the clipped loss of every token, against who sampled it.

A row is prompts with the answers that were sampled to them; image and prompt are computed once for all of them.
What was found out about each token stands beside it in the batch (`columns`).
"""

import torch
from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.answers import num_answers
from llavakit.train.losses import token_logprobs
from llavakit.train.objectives import LossSum, Separate, Totals
from llavakit.train.policy import aggregate, kl_estimate, policy_terms
from llavakit.train.policy_settings import Aggregation, PolicyConfig

UNITS: dict[Aggregation, str] = {
    "token_mean": "tokens", "sequence_mean": "answers", "constant": "room",
}  # fmt: skip


class PolicyObjective(Separate):
    """The objective: a clipped policy loss, and what it strays from the reference where that is a part of it.

    Columns of a batch, one number a learned token: `old`, the log-probability under which it was drawn, recomputed
    by the learner; `advantages`; and, where there are any, `reference` (log-probabilities) and `importance`
    (weights).
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.config, self.how = config, config.algorithm
        self.unit = UNITS[self.how.aggregation]
        self.room = config.max_tokens if self.how.constant is None else self.how.constant

    def weights(self, batch: Batch) -> Totals:
        """`room` is what `constant` divides by: tokens an answer counts as, however many it has."""
        answers = float(num_answers(batch))
        return {"tokens": float(len(batch.answers_L)), "answers": answers, "room": answers * self.room}

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        new_L = policy_logprobs(model, batch, self.config.temperature)
        answers_L, same_L = batch.answers_L, new_L.detach()
        # A row of no answers has no columns, and must report all that the rows of other ranks do.
        new_BT, old_BT, ref_BT, advantages_BT, weights_BT, mask_BT = (
            as_table(column_L, answers_L)
            for column_L in (
                new_L,
                batch.columns.get("old", same_L),
                batch.columns.get("reference", same_L),
                batch.columns.get("advantages", torch.zeros_like(same_L)),
                batch.columns.get("importance", torch.ones_like(same_L)),
                torch.ones_like(same_L),
            )
        )
        in_loss = ref_BT if self.how.kl_in == "loss" else None
        terms = policy_terms(new_BT, old_BT, advantages_BT, mask_BT, self.how, in_loss)
        how = self.how.aggregation
        total, _ = aggregate(terms.loss_BT * weights_BT, mask_BT, how, longest=self.room)
        with torch.no_grad():
            report = {
                "clip_fraction": ("tokens", terms.clipped_BT.sum()),
                "kl_old": ("tokens", (kl_estimate(new_BT, old_BT, "k2") * mask_BT).sum()),
            }
            if self.config.needs_reference:
                kl_BT = kl_estimate(new_BT, ref_BT, "k3") * mask_BT
                report["kl_reference"] = ("tokens", kl_BT.sum())
        return LossSum({self.unit: total}, report)


def policy_logprobs(model: Llava, batch: Batch, temperature: float) -> Tensor:
    """The log-probability of each learned token, float32[L], as a policy that samples at this temperature."""
    hidden_LD = model.hidden(batch)[batch.predict_L]

    def logits(rows_LD: Tensor) -> Tensor:
        return model.logits(rows_LD) / temperature

    return token_logprobs(hidden_LD, batch.labels_L, model.logits if temperature == 1 else logits)[0]


def as_table(values_L: Tensor, answers_L: Tensor) -> Tensor:
    """Numbers of tokens as a row for each answer, [B, T], zeros behind the shorter ones.

    An answer's tokens stand together, in the order of the answers.
    """
    count = int(answers_L.max()) + 1 if len(answers_L) else 0
    lengths_B = torch.bincount(answers_L, minlength=count)
    longest = int(lengths_B.max()) if count else 0
    first_B = lengths_B.cumsum(0) - lengths_B
    place_L = torch.arange(len(answers_L), device=answers_L.device) - first_B[answers_L]
    return values_L.new_zeros(count, longest).index_put((answers_L, place_L), values_L)
