"""Learning from scored answers (PPO, GRPO and kin): the clipped loss of every token, against who sampled it.

A row is prompts with the answers that were sampled to them; image and prompt are computed once for all of them.
What was found out about each token stands beside it in the batch (`columns`).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.answers import num_answers
from llavakit.train.losses import logprobs_and_entropy, token_logprobs
from llavakit.train.objectives import LossSum, Separate, Totals
from llavakit.train.policy import aggregate, kl_estimate, policy_terms, value_terms
from llavakit.train.policy_settings import Aggregation, PolicyConfig

SAMPLED = "sampled"  # the sampler's log-probabilities, where the pass that learns compares them
VALUE = ("values", "returns", "span")  # columns of a value model's rows; span: what `clip` is counted in
VALUE_REPORT = ("value_loss", "value_error")
UNITS: dict[Aggregation, str] = {
    "token_mean": "tokens", "sequence_mean": "answers", "constant": "room",
}  # fmt: skip


class Values(Protocol):
    """A value model that has adapters on the policy's own modules."""

    def values(self, batch: Batch) -> Tensor:
        """float32[L], in front of each learned token, with a gradient; its adapters stay in use."""
        ...

    def use_policy(self) -> None:
        """Compute with the policy's adapters again."""
        ...


class PolicyObjective(Separate):
    """The objective: a clipped policy loss, and what it strays from the reference where that is a part of it.

    Columns of a batch, one number a learned token: `old`, the log-probability under which it was drawn, recomputed
    by the learner; `advantages`; and, where there are any, `reference` (log-probabilities) and `importance`
    (weights). A policy that `learns_once` is who answered: instead of `old` and `importance`, its rows have
    `sampled`, and what comes of the comparison is found here.
    """

    def __init__(self, config: PolicyConfig, values: Values | None = None) -> None:
        """`values` is a value model that learns beside the policy, from rows that have the columns of VALUE."""
        self.config, self.how, self.values = config, config.algorithm, values
        self.unit = UNITS[self.how.aggregation]
        self.room = config.max_tokens if self.how.constant is None else self.how.constant

    def weights(self, batch: Batch) -> Totals:
        """`room` is what `constant` divides by: tokens an answer counts as, however many it has."""
        answers, tokens, valued = float(num_answers(batch)), float(len(batch.answers_L)), 0.0
        if is_for_value(batch):
            answers, tokens, valued = 0.0, 0.0, tokens
        return {"tokens": tokens, "answers": answers, "room": answers * self.room, "valued": valued}

    def loss(self, model: Llava, batch: Batch) -> LossSum:
        """Every row reports the same names, whatever it is for: ranks add them up in their order."""
        if self.values is None:
            return self._policy_loss(model, batch)
        if not is_for_value(batch):
            self.values.use_policy()
            found = self._policy_loss(model, batch)
            none = found.terms[self.unit] * 0
            return LossSum(
                found.terms | {"valued": none}, found.report | dict.fromkeys(VALUE_REPORT, ("valued", none))
            )
        total, report = self._value_loss(self.values.values(batch), batch)
        none = total * 0
        policy_report = {name: ("tokens", none) for name in self._policy_report}
        return LossSum({self.unit: none, "valued": total}, policy_report | report)

    @property
    def _policy_report(self) -> tuple[str, ...]:
        return ("clip_fraction", "kl_old", *(("kl_reference",) if self.config.needs_reference else ()))

    def _value_loss(self, values_L: Tensor, batch: Batch) -> tuple[Tensor, dict[str, tuple[str, Tensor]]]:
        """The summed loss with its factor 1/2 and coefficient, and what is told of it."""
        old_L, returns_L, span_L = (batch.columns[name] for name in VALUE)
        terms_L = value_terms(values_L, old_L, returns_L, clip=self.how.value.clip * span_L)
        error_L = (values_L.detach() - returns_L) ** 2
        report = {
            "value_loss": ("valued", terms_L.detach().sum() / 2),
            "value_error": ("valued", error_L.sum()),
        }
        return self.how.value.coef * terms_L.sum() / 2, report

    def _policy_loss(self, model: Llava, batch: Batch) -> LossSum:
        new_L, entropy_L = policy_logprobs(model, batch, self.config)
        answers_L, same_L = batch.answers_L, new_L.detach()
        sampled_L = batch.columns.get(SAMPLED, same_L)
        # A row of no answers has no columns, and must report all that the rows of other ranks do.
        new_BT, old_BT, ref_BT, advantages_BT, weights_BT, mask_BT = (
            as_table(column_L, answers_L)
            for column_L in (
                new_L,
                batch.columns.get("old", same_L),
                batch.columns.get("reference", same_L),
                batch.columns.get("advantages", torch.zeros_like(same_L)),
                batch.columns.get("importance", importance(same_L, sampled_L, self.how.importance_cap)),
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
        if not self.config.learns_once:
            return LossSum({self.unit: total}, report)
        drift_L = (same_L - sampled_L).abs()
        report |= {"drift": ("tokens", drift_L.sum()), "entropy": ("tokens", entropy_L.sum())}
        if self.config.needs_reference:
            strays_BT = kl_estimate(new_BT.detach(), ref_BT, self.how.kl_estimator)
            report["kl"] = ("answers", strays_BT.sum())  # beyond an answer's end all are 0
        return LossSum({self.unit: total}, report, tails={"drift_p99": drift_L})


def is_for_value(batch: Batch) -> bool:
    """Whether the value model learns from a row, and not the policy."""
    return VALUE[0] in batch.columns


def policy_logprobs(model: Llava, batch: Batch, config: PolicyConfig) -> tuple[Tensor, Tensor]:
    """(log-probability of each learned token, entropy), float32[L], as a policy that samples at its temperature.

    The entropy is zeros where this is not the place to tell it.
    """
    hidden_LD, logits = model.hidden(batch)[batch.predict_L], logits_at(config.temperature, model)

    def look(rows_LD: Tensor) -> tuple[Tensor, Tensor]:
        if config.learns_once:
            return logprobs_and_entropy(rows_LD, batch.labels_L, logits)
        new_L = token_logprobs(rows_LD, batch.labels_L, logits)
        return new_L, torch.zeros_like(new_L)

    return model.with_head(look, hidden_LD)


def logits_at(temperature: float, model: Llava) -> Callable[[Tensor], Tensor]:
    """The model's logits, divided by the temperature."""

    def logits(rows_LD: Tensor) -> Tensor:
        return model.logits(rows_LD) / temperature

    return model.logits if temperature == 1 else logits


def importance(learner_L: Tensor, sampled_L: Tensor, cap: float | None) -> Tensor:
    """What each token counts: by how much likelier the learner finds it than who drew it, at most `cap`; else 1."""
    return torch.ones_like(learner_L) if cap is None else (learner_L - sampled_L).exp().clamp(max=cap)


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
