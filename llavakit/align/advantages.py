"""From scores to advantages: what is to be learned from each token. Statistics are those of the whole round.

Letters: G prompts of a round, K answers to each. Groups lie on ranks as wholes; tables are the same on every rank.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llavakit.align.experience import Experience
from llavakit.train.policy import group_advantages, kl_estimate, leave_one_out_advantages
from llavakit.train.policy_settings import Algorithm
from llavakit.train.ranks import Ranks

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
