"""Losses and advantages of policy gradients (PPO, GRPO, kin): pure functions of log-probabilities and rewards.

Shape letters: B answers of a batch, T tokens of an answer; `mask_BT` is 1 where a token was generated. G groups of
K answers to one prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llavakit.train.policy_settings import Aggregation, Estimator, PolicySettings, Scale

AddUp = Callable[[list[float]], list[float]]  # numbers summed over ranks
GROUP_EPSILON = 1e-4  # beside a group's deviation, as TRL
WHITEN_EPSILON = 1e-8


def kl_estimate(
    logprob: Tensor, ref_logprob: Tensor, estimator: Estimator, *, cap: float | None = None
) -> Tensor:
    """The divergence from the reference, estimated at each sampled token (Schulman, "Approximating KL Divergence").

    k1 is unbiased and may be negative; `k1_clamped` is LLaVA-RLHF's, biased upwards; k3 is unbiased and never
    negative. `cap` bounds what a token can say (10 in OpenRLHF and verl).
    """
    log_ratio = logprob - ref_logprob
    if estimator == "k1_clamped":
        kl = log_ratio.clamp(min=0)
    elif estimator == "k2":
        kl = log_ratio**2 / 2
    elif estimator == "k3":
        kl = torch.expm1(-log_ratio) + log_ratio
    elif estimator == "abs":
        kl = log_ratio.abs()
    else:
        kl = log_ratio
    return kl if cap is None else kl.clamp(-cap, cap)


def next_kl_coef(coef: float, kl: float, *, target: float, horizon: int, samples: int) -> float:
    """The adaptive controller's coefficient after a step of `samples` answers (arXiv 1909.08593)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * samples / horizon)


def shaped_rewards(
    kl_BT: Tensor, scores_B: Tensor, mask_BT: Tensor, *, kl_coef: float, scale: float = 1.0
) -> Tensor:
    """A reward for every token, [B, T]: minus what it strays, and the answer's score at its last token."""
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B = mask_BT.sum(dim=1).long() - 1
    at = torch.arange(len(scores_B), device=scores_B.device)
    rewards_BT[at, last_B] = rewards_BT[at, last_B] + scores_B
    return scale * rewards_BT


def estimate_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both [B, T], by GAE (arXiv 1506.02438). What is outside the mask does not matter."""
    advantage = next_value = torch.zeros_like(rewards_BT[:, 0])
    advantages: list[Tensor] = []
    for t in reversed(range(rewards_BT.shape[1])):
        inside = mask_BT[:, t].bool()
        value = values_BT[:, t]
        delta = rewards_BT[:, t] + gamma * next_value - value
        advantage = torch.where(inside, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(inside, value, next_value)
        advantages.append(advantage)
    advantages_BT = torch.stack(advantages[::-1], dim=1).where(mask_BT.bool(), 0.0)
    return advantages_BT, (advantages_BT + values_BT).where(mask_BT.bool(), 0.0)


def whiten(values_BT: Tensor, mask_BT: Tensor, *, unbiased: bool, add_up: AddUp = list) -> Tensor:
    """Mean 0, deviation 1 over the mask. TRL and verl take the unbiased variance, LLaVA-RLHF the population's.

    `add_up` sums numbers over all who have a share of the values.
    """
    inside = mask_BT.bool()
    chosen = values_BT[inside]
    mean, variance = moments(chosen, unbiased=unbiased, add_up=add_up)
    return ((values_BT - mean) * (variance + WHITEN_EPSILON) ** -0.5).where(inside, 0.0)


def moments(values: Tensor, *, unbiased: bool, add_up: AddUp = list) -> tuple[float, float]:
    """Mean and variance of what all who have a share of the values have together."""
    total, count = add_up([float(values.double().sum()), len(values)])
    mean = total / max(1.0, count)
    [squares] = add_up([float(((values.double() - mean) ** 2).sum())])
    return mean, squares / max(1.0, count - unbiased)


def group_advantages(rewards_GK: Tensor, *, scale: Scale = "group", epsilon: float = GROUP_EPSILON) -> Tensor:
    """GRPO (arXiv 2402.03300): how an answer stands in its group, in deviations of the group or of the whole batch.

    Without scale it is Dr. GRPO's (arXiv 2503.20783). An unscorable answer (NaN) is out of means and deviations,
    and gets advantage 0. Equal rewards give 0.
    """
    known_GK = ~rewards_GK.isnan()
    count_G1 = known_GK.sum(dim=1, keepdim=True)
    above_GK = _above_least(rewards_GK)
    mean_G1 = above_GK.nansum(dim=1, keepdim=True) / count_G1.clamp(min=1)
    centred_GK = torch.where(known_GK, above_GK - mean_G1, 0.0)
    if scale == "none":
        return centred_GK
    if scale == "batch":
        known = rewards_GK[known_GK]
        return centred_GK / (known.std() + epsilon) if len(known) > 1 else centred_GK
    variance_G1 = (centred_GK**2).sum(dim=1, keepdim=True) / (count_G1 - 1).clamp(min=1)
    return centred_GK / (variance_G1.sqrt() + epsilon)


def _above_least(rewards_GK: Tensor) -> Tensor:
    """Rewards above the least of their group: equal ones are 0 then, whose mean is not rounded."""
    return rewards_GK - rewards_GK.nan_to_num(torch.inf).amin(dim=1, keepdim=True)


def silent_groups(rewards_GK: Tensor) -> Tensor:
    """The share of groups whose rewards are all the same: nothing is learned from them."""
    return (group_advantages(rewards_GK, scale="none") == 0).all(dim=1).float().mean()


def comparison_rewards(wins_KK: Tensor) -> Tensor:
    """LLaVA-Critic's reward of K answers, [K], from all ordered comparisons: what was won minus what was lost.

    `wins_KK[i, j]` is by how much answer j, shown second, beats answer i, shown first. As both orders are summed, a
    liking for a position cancels.
    """
    return wins_KK.sum(dim=0) - wins_KK.sum(dim=1)


def leave_one_out_advantages(rewards_GK: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): a reward minus the mean of the group's others. An unscorable answer (NaN) gets 0."""
    known_GK = ~rewards_GK.isnan()
    count_G1 = known_GK.sum(dim=1, keepdim=True)
    above_GK = _above_least(rewards_GK)
    others_GK = above_GK.nansum(dim=1, keepdim=True) - above_GK
    baseline_GK = others_GK / (count_G1 - 1).clamp(min=1)
    return torch.where(known_GK & (count_G1 > 1), above_GK - baseline_GK, 0.0)


def standardize_batch(values: Tensor, *, epsilon: float = GROUP_EPSILON) -> Tensor:
    """Mean 0 and (unbiased) deviation 1 over all values, whatever their groups."""
    return (values - values.mean()) / (values.std() + epsilon)


def keep_groups(outcome_GK: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Which groups say anything, bool[G]: those whose (binary) outcome is not the same for all (DAPO's filter).

    An unscorable answer (NaN) has no outcome: the others of its group decide.
    """
    highest_G = outcome_GK.nan_to_num(-torch.inf).amax(dim=1)
    return highest_G - outcome_GK.nan_to_num(torch.inf).amin(dim=1) > epsilon


def soft_overlong(tokens_B: Tensor, *, longest: int, buffer: int) -> Tensor:
    """DAPO's penalty (arXiv 2503.14476): from 0 to -1 over the last `buffer` tokens before `longest`."""
    return ((longest - buffer - tokens_B) / buffer).clamp(-1, 0)


@dataclass(frozen=True)
class PolicyTerms:
    """What a policy loss says of every token, [B, T], and which of them were cut."""

    loss_BT: Tensor
    clipped_BT: Tensor


def policy_terms(
    new_BT: Tensor,
    old_BT: Tensor,
    advantages: Tensor,
    mask_BT: Tensor,
    settings: PolicySettings,
    ref_BT: Tensor | None = None,
) -> PolicyTerms:
    """The clipped loss of every token. `advantages` is [B] (one an answer) or [B, T].

    PPO, GRPO, DAPO, GSPO and CISPO differ by `settings` and by who takes which mean (`aggregate`). `old_BT` are the
    log-probabilities under which the tokens were drawn, `ref_BT` those of the reference, for a KL in the loss.
    """
    advantages_BT = advantages if advantages.dim() == 2 else advantages[:, None].expand_as(new_BT)
    ratio_BT = _ratios(new_BT, old_BT, mask_BT, settings).exp()
    cut_BT = ratio_BT.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    if settings.constant_weight:
        weight_BT = ratio_BT.detach().clamp(max=settings.clip_high)
        loss_BT = -weight_BT * advantages_BT * new_BT
        clipped_BT = (ratio_BT > settings.clip_high) & (advantages_BT > 0)
    else:
        free_BT = ratio_BT if settings.ratio_cap is None else ratio_BT.clamp(max=settings.ratio_cap)
        clipped_BT = -advantages_BT * cut_BT > -advantages_BT * ratio_BT
        loss_BT = torch.maximum(-advantages_BT * free_BT, -advantages_BT * cut_BT)
        if settings.dual_clip is not None:
            bound_BT = torch.minimum(-advantages_BT * settings.dual_clip, loss_BT)
            loss_BT = torch.where(advantages_BT < 0, bound_BT, loss_BT)
    if settings.kl_coef and ref_BT is not None:
        loss_BT = loss_BT + settings.kl_coef * kl_estimate(new_BT, ref_BT, settings.kl_estimator)
    return PolicyTerms(loss_BT, clipped_BT & mask_BT.bool())


def _ratios(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, settings: PolicySettings) -> Tensor:
    """Log-ratios of each token; GSPO's (arXiv 2507.18071) are their mean over the answer."""
    log_ratio_BT = new_BT - old_BT
    if settings.ratio == "token":
        return log_ratio_BT
    mean_B = (log_ratio_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)
    return mean_B[:, None].expand_as(log_ratio_BT)


def aggregate(
    loss_BT: Tensor, mask_BT: Tensor, how: Aggregation, *, longest: int = 0
) -> tuple[Tensor, Tensor]:
    """(sum, its divisor): per token, per answer of each answer's mean, or a constant `longest` an answer."""
    loss_BT, answers = loss_BT * mask_BT, torch.tensor(float(len(loss_BT)))
    if how == "token_mean":
        return loss_BT.sum(), mask_BT.sum()
    if how == "constant":
        return loss_BT.sum(), answers * longest
    return (loss_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)).sum(), answers


def value_terms(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, *, clip: float | Tensor
) -> Tensor:
    """PPO's value loss of every token, [B, T], before its factor 1/2: the worse of the free and the clipped one."""
    cut_BT = torch.clamp(values_BT, old_values_BT - clip, old_values_BT + clip)
    return torch.maximum((values_BT - returns_BT) ** 2, (cut_BT - returns_BT) ** 2)
