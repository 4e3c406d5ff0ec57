"""From scores to advantages: what is to be learned from each token. Statistics are those of the whole round.

Letters: G prompts of a round, K answers to each. Groups lie on ranks as wholes; tables are the same on every rank.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llavakit.align.experience import Experience
from llavakit.train.policy import (
    estimate_advantages,
    group_advantages,
    kl_estimate,
    leave_one_out_advantages,
    moments,
    shaped_rewards,
    whiten,
)
from llavakit.train.policy_settings import Algorithm
from llavakit.train.ranks import Ranks
from llavakit.train.reward_terms import TOTAL

Place = tuple[int, int]  # group, choice


def share_table(mine: Mapping[Place, float | None], groups: int, answers: int, ranks: Ranks) -> Tensor:
    """float64[G, K] of what all ranks know; NaN where nobody has a number."""
    values_GK, known_GK = torch.zeros(2, groups, answers, dtype=torch.float64)
    for place, value in mine.items():
        if value is not None:
            values_GK[place], known_GK[place] = value, 1
    summed = torch.tensor(ranks.sums([*values_GK.flatten().tolist(), *known_GK.flatten().tolist()]))
    values_GK, known_GK = summed.double().view(2, groups, answers)
    return values_GK.where(known_GK > 0, torch.nan)


def term_table(
    experiences: Sequence[Experience], term: str, groups: int, answers: int, ranks: Ranks
) -> Tensor:
    """A term's scores, [G, K]."""
    return share_table({place_of(each): each.scores[term] for each in experiences}, groups, answers, ranks)


def place_of(experience: Experience) -> Place:
    return experience.rollout.group, experience.rollout.choice


def divergence(experience: Experience, how: Algorithm) -> Tensor:
    """By which each token strays from the reference, float64[T]."""
    old, reference = (
        torch.tensor(experience.columns[name], dtype=torch.float64) for name in ("old", "reference")
    )
    return kl_estimate(old, reference, how.kl_estimator)


def group_columns(
    experiences: Sequence[Experience], totals_GK: Tensor, how: Algorithm, kl_coef: float, ranks: Ranks
) -> list[Experience]:
    """Experiences with `advantages` from their groups: one number for all tokens of an answer.

    What cannot be scored is out of every mean and gets 0.
    """
    if how.kl_in == "reward" and kl_coef:
        strays = {place_of(each): float(divergence(each, how).sum()) for each in experiences}
        totals_GK = totals_GK - kl_coef * share_table(strays, len(totals_GK), totals_GK.shape[1], ranks)
    if how.advantage == "leave_one_out":
        advantages_GK = leave_one_out_advantages(totals_GK)
    else:
        advantages_GK = group_advantages(totals_GK, scale=how.scale)
    return [
        each.with_columns({"advantages": [float(advantages_GK[place_of(each)])] * len(each.rollout.ids)})
        for each in experiences
    ]


def value_columns(
    experiences: Sequence[Experience], how: Algorithm, kl_coef: float, ranks: Ranks
) -> list[Experience]:
    """Experiences with `advantages` by GAE, and what the value model learns: `returns`, and the `span` of its clip.

    What cannot be scored gets advantage 0, and as returns what the value model says already.
    """
    value, scores = how.value, [each.scores[TOTAL] for each in experiences]
    values_BT, mask_BT = _table(experiences, "values")
    known_B = torch.tensor([score is not None for score in scores])
    scores_B = torch.tensor([score or 0.0 for score in scores], dtype=torch.float64)
    kl_BT = torch.zeros_like(values_BT)
    if kl_coef and how.kl_in == "reward":
        for row_T, each in zip(kl_BT, experiences, strict=True):
            row_T[: len(each.rollout.ids)] = divergence(each, how)
    rewards_BT = shaped_rewards(kl_BT, scores_B, mask_BT, kl_coef=kl_coef, scale=value.reward_scale)
    learned_BT = mask_BT * known_B[:, None]
    if value.whiten_rewards:
        mean, _ = moments(rewards_BT[learned_BT.bool()], unbiased=False, add_up=ranks.sums)
        rewards_BT = whiten(rewards_BT, learned_BT, unbiased=False, add_up=ranks.sums) + mean * learned_BT
    advantages_BT, returns_BT = estimate_advantages(
        rewards_BT, values_BT, mask_BT, gamma=value.gamma, lam=value.lam
    )
    if value.whiten != "none":
        unbiased = value.whiten == "unbiased"
        advantages_BT = whiten(advantages_BT, learned_BT, unbiased=unbiased, add_up=ranks.sums)
    advantages_BT = advantages_BT * learned_BT
    returns_BT = torch.where(learned_BT.bool(), returns_BT, values_BT)
    _, variance = moments(returns_BT[learned_BT.bool()], unbiased=False, add_up=ranks.sums)
    span = max(variance**0.5, 1e-6) if value.clip_in == "returns" else 1.0
    return [
        each.with_columns(
            {
                "advantages": advantages_BT[at, : len(each.rollout.ids)].tolist(),
                "returns": returns_BT[at, : len(each.rollout.ids)].tolist(),
                "span": [span] * len(each.rollout.ids),
            }
        )
        for at, each in enumerate(experiences)
    ]


def _table(experiences: Sequence[Experience], name: str) -> tuple[Tensor, Tensor]:
    """A column as a row for each answer, float64[B, T], and where a row has tokens."""
    longest = max((len(each.rollout.ids) for each in experiences), default=1)
    values_BT, mask_BT = torch.zeros(2, len(experiences), longest, dtype=torch.float64)
    for row_T, mask_T, each in zip(values_BT, mask_BT, experiences, strict=True):
        row_T[: len(each.rollout.ids)] = torch.tensor(each.columns[name], dtype=torch.float64)
        mask_T[: len(each.rollout.ids)] = 1
    return values_BT, mask_BT
