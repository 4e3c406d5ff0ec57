"""The reward: named terms, each scored and logged on its own, and their weighted sum."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import torch

from llavakit.align.reward_model import Score, Unscorable
from llavakit.align.rewards.models import JudgeScores, OpenResponder, OpenRewardModel, RewardModelScores
from llavakit.align.rewards.processes import Mathematical, Regex, UserFunction
from llavakit.align.rewards.rules import RULES
from llavakit.align.rewards.term import Each, Term
from llavakit.align.rollouts import Rollout
from llavakit.core.errors import ConfigError, DataError
from llavakit.data.facts import Facts
from llavakit.train import reward_terms as settings
from llavakit.train.policy import group_advantages
from llavakit.train.reward_terms import TOTAL, RewardsConfig, TermSettings

OF_FORM = (settings.StopPenalty, settings.Length, settings.SoftOverlong)  # count whatever a gate says

OpenCritic = Callable[[settings.Critic], Term]  # who compares answers is above this package
Named = dict[str, float | None]  # every term by its name before its weight, and the total


class Reward(Protocol):
    """What a policy learns from."""

    def scores(self, rollouts: Sequence[Rollout]) -> list[Named]:
        """For each answer its terms and `total`; None: unscorable, which is nothing to learn from."""
        ...


class Composer:
    """A reward by its settings."""

    def __init__(
        self,
        config: RewardsConfig,
        *,
        open_responder: OpenResponder | None = None,
        open_model: OpenRewardModel | None = None,
        open_critic: OpenCritic | None = None,
    ) -> None:
        """UserError where a term cannot be had, before anything is generated.

        `open_responder` gives judges; `open_model` reward models, where they need not be models of their own;
        `open_critic` what compares answers (llavakit/critic/reward.py).
        """
        self.config = config
        self._facts = None if config.facts is None else Facts(config.facts)
        self.unscorable: list[str] = []  # why answers of the newest call have no score, each with its term
        self._terms = {
            name: _open(term, open_responder, open_model, open_critic) for name, term in config.terms.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def scores(self, rollouts: Sequence[Rollout]) -> list[Named]:
        """For each answer its terms before their weights, and the total."""
        self.unscorable = []
        if self._facts is not None:
            rollouts = [_informed(each, self._facts) for each in rollouts]
        columns = {name: self._column(name, rollouts) for name in self._terms}
        counted = columns
        if self.config.normalise == "group":
            counted = {name: _normalised(column, rollouts) for name, column in columns.items()}
        rows = []
        for at in range(len(rollouts)):
            raw = {name: column[at] for name, column in columns.items()}
            parts = {name: column[at] for name, column in counted.items()}
            rows.append(raw | {TOTAL: self._total(raw, parts)})
        return rows

    def close(self) -> None:
        """End the processes that terms run in."""
        for term in self._terms.values():
            term.close()

    def _column(self, name: str, rollouts: Sequence[Rollout]) -> list[float | None]:
        """A term's scores; 0 where it does not apply, None where it has none."""
        wanted = self.config.terms[name].only
        applies = [
            all(each.extra.get(field) in values for field, values in wanted.items()) for each in rollouts
        ]
        chosen = [each for each, is_wanted in zip(rollouts, applies, strict=True) if is_wanted]
        found = iter(self._terms[name].scores(chosen) if chosen else ())
        return [self._known(name, next(found)) if is_wanted else 0.0 for is_wanted in applies]

    def _known(self, name: str, score: Score) -> float | None:
        if isinstance(score, Unscorable):
            self.unscorable.append(f"{name}: {score.reason}")
            return None
        return float(score)

    def _total(self, raw: Named, parts: Named) -> float | None:
        """The weighted sum of `parts`. What a term says of an answer that it does not count for matters not."""
        terms, gate = self.config.terms, self.config.gate
        for name, term in terms.items():
            if isinstance(term, settings.StopPenalty) and not term.relative and raw[name]:
                return term.weight * term.value
        counts = {name for name, term in terms.items() if term.weight}
        if gate is not None:
            opened = raw[gate]
            if opened is None:
                return None
            if opened <= 0:
                counts = {name for name in counts if name == gate or isinstance(terms[name], OF_FORM)}
        total = 0.0
        for name in terms:
            if name in counts:
                part = parts[name]
                if part is None:
                    return None
                total += terms[name].weight * part
        return total


def _normalised(column: list[float | None], rollouts: Sequence[Rollout]) -> list[float | None]:
    """Scores as they stand among the answers to the same prompt, in deviations; equal ones are 0 (GDPO)."""
    groups: dict[int, list[int]] = {}
    for at, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(at)
    out: list[float | None] = [None] * len(column)
    for places in groups.values():
        if len(places) < 2:
            raise ConfigError(
                "rewards.normalise=group needs several answers to every prompt; here is one with one"
            )
        known = [float("nan") if (score := column[at]) is None else score for at in places]
        for at, value in zip(places, group_advantages(torch.tensor([known]))[0].tolist(), strict=True):
            out[at] = None if column[at] is None else value
    return out


def _informed(rollout: Rollout, facts: Facts) -> Rollout:
    """With the facts of its record. One without any is left without: a term that needs them cannot score it."""
    try:
        return replace(rollout, facts=facts.of(rollout.prompt, rollout.extra))
    except DataError:
        return rollout


def _open(
    term: TermSettings,
    open_responder: OpenResponder | None,
    open_model: OpenRewardModel | None,
    open_critic: OpenCritic | None,
) -> Term:
    if isinstance(term, settings.RewardModelTerm):
        return RewardModelScores(term, open_model)
    if isinstance(term, settings.Judge):
        return JudgeScores(term, open_responder)
    if isinstance(term, settings.Critic):
        if open_critic is None:
            raise ConfigError("rewards: a critic needs somebody who opens one; pass open_critic")
        return open_critic(term)
    if isinstance(term, settings.Regex):
        return Regex(term)
    if isinstance(term, settings.Math):
        return Mathematical(term)
    if isinstance(term, settings.Python):
        return UserFunction(term)
    return Each(partial(RULES[type(term)], term))
