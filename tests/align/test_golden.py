"""Losses, gradients and advantages against numbers that published code gave (or its formulas, where it says so).

`LLAVAKIT_GOLDEN_RL` names another file of the same shape: other numbers, the same algorithms.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llavakit.train import policy
from llavakit.train.pair_losses import (
    PAIR_LOSSES,
    Pairs,
    answer_weights,
    center_absolute,
    center_squared,
    kto,
    log_odds,
    pair_metrics,
    reward_loss,
)
from llavakit.train.pair_settings import PRESETS, PairSettings
from llavakit.train.policy_settings import Aggregation, Estimator, PolicySettings

FILE = os.environ.get("LLAVAKIT_GOLDEN_RL") or Path(__file__).parents[1] / "golden" / "preference-and-rl.json"
CASES = json.loads(Path(FILE).read_text())["cases"]
Inputs = dict[str, Any]
AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": "sequence_mean", "bnpo": "token_mean", "dr_grpo": "constant",
}  # fmt: skip


def tensor(values: Any, *, learns: bool = False) -> Tensor:
    """Numbers of any depth; JSON has no NaN, so the file says "nan"."""
    return torch.tensor(numbers(values), dtype=torch.float64, requires_grad=learns)


def numbers(values: Any) -> Any:
    return [numbers(value) for value in values] if isinstance(values, list) else float(values)


def pairs_of(inputs: Inputs) -> Pairs:
    none = [0.0] * len(inputs["policy_chosen"])
    return Pairs(
        tensor(inputs["policy_chosen"], learns=True),
        tensor(inputs["policy_rejected"], learns=True),
        tensor(inputs.get("ref_chosen", none)),
        tensor(inputs.get("ref_rejected", none)),
        tensor(inputs.get("len_chosen", none)),
        tensor(inputs.get("len_rejected", none)),
    )


def with_gradients(per_pair: Tensor, pairs: Pairs, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {
        "per_pair": per_pair, "loss": loss,
        "grad_policy_chosen": pairs.chosen_P.grad, "grad_policy_rejected": pairs.rejected_P.grad,
    }  # fmt: skip


def pair_loss(name: str) -> Callable[[Inputs, Inputs], dict[str, Tensor]]:
    def run(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
        pairs = pairs_of(inputs)
        settings = PairSettings(
            beta=params["beta"],
            label_smoothing=params.get("label_smoothing", 0),
            margin=params.get("gamma", 1.0),
        )
        per_pair = PAIR_LOSSES[name](pairs, settings)
        return with_gradients(per_pair, pairs, per_pair.mean())

    return run


def f_divergence(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    name, _, alpha = params["f_divergence"].partition("_")
    given = {"divergence": params["f_divergence"]}
    if name == "alpha":
        given = {"divergence": "alpha_divergence", "alpha": float(alpha)}
    settings = PairSettings(beta=params["beta"], **given)
    return {"loss": PAIR_LOSSES["sigmoid"](pairs_of(inputs), settings).mean()}


def metrics(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    return {name: value.mean() for name, value in pair_metrics(pairs_of(inputs), params["beta"]).items()}


def sft(pairs: Pairs) -> Tensor:
    return -pairs.chosen_P.sum() / pairs.chosen_tokens_P.sum()


def mpo(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    pairs = pairs_of(inputs)
    settings = PairSettings(beta=params["beta"], shift=params["reward_shift"])
    terms = {
        "sigmoid": PAIR_LOSSES["sigmoid"](pairs, settings).mean(),
        "bco": PAIR_LOSSES["bco_pair"](pairs, settings).mean(),
        "sft": sft(pairs),
    }
    assert list(PRESETS["mpo"].values()) == params["weights"]
    weights = zip(terms.values(), params["weights"], strict=True)
    return terms | {"loss": sum(weight * term for term, weight in weights)}


def orpo(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    pairs = pairs_of(inputs)
    term = PAIR_LOSSES["odds_ratio"](pairs, PairSettings(beta=params["beta"]))
    return {"log_odds": log_odds(pairs), "or_term": term, "nll": sft(pairs), "loss": sft(pairs) + term.mean()}


def length_desensitised(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    chosen, rejected = tensor(inputs["chosen_token_logps"]), tensor(inputs["rejected_token_logps"])
    shorter = min(len(chosen), len(rejected))
    return {
        "chosen": (chosen * answer_weights(len(chosen), shorter, params["ld_alpha"])).sum(),
        "rejected": (rejected * answer_weights(len(rejected), shorter, params["ld_alpha"])).sum(),
    }


def kto_losses(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    pairs = pairs_of(inputs)
    wanted, unwanted = kto(
        pairs.chosen_ratio_P, pairs.rejected_ratio_P, torch.tensor(params["kl"]), beta=params["beta"]
    )
    wanted, unwanted = wanted * params["desirable_weight"], unwanted * params["undesirable_weight"]
    return {"chosen": wanted, "rejected": unwanted, "loss": torch.cat([wanted, unwanted]).mean()}


def rewards(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    chosen, rejected = tensor(inputs["chosen"], learns=True), tensor(inputs["rejected"], learns=True)
    margin = tensor(params["margin"]) if "margin" in params else None
    loss = reward_loss(chosen, rejected, margin_P=margin).mean()
    loss = loss + params.get("center_sq", 0) * center_squared(chosen, rejected).mean()
    loss = loss + params.get("center_abs", 0) * center_absolute(chosen, rejected)
    loss.backward()
    accuracy = (chosen > rejected).double().mean()
    return {"loss": loss, "grad_chosen": chosen.grad, "grad_rejected": rejected.grad, "accuracy": accuracy}


def kl(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    new, ref = tensor(inputs["logprob"]), tensor(inputs["ref_logprob"])
    out = {name: policy.kl_estimate(new, ref, name) for name in ("k1", "k2", "k3", "abs")}
    out["k1_clamped_at_0"] = policy.kl_estimate(new, ref, "k1_clamped")
    capped = {name: policy.kl_estimate(new, ref, name, cap=10) for name in ("k1", "k2", "k3")}
    return out | {f"openrlhf_{name}": value for name, value in capped.items()} | {"verl_k3": capped["k3"]}


def kl_control(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    found, coef = [], params["init"]
    for kl in inputs["current_kl"]:
        coef = policy.next_kl_coef(
            coef, kl, target=params["target"], horizon=params["horizon"], samples=params["n_steps"]
        )
        found.append(coef)
    return {"coefficients": tensor(found)}


def gae(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    mask = tensor(inputs["mask"])
    advantages, returns = policy.estimate_advantages(
        tensor(inputs["rewards"]), tensor(inputs["values"]), mask, gamma=params["gamma"], lam=params["lam"]
    )
    rows = [row[inside.bool()] for row, inside in zip(advantages, mask, strict=True)]
    return {
        "advantages": advantages, "returns": returns,
        "whitened_unbiased": policy.whiten(advantages, mask, unbiased=True),
        "whitened_population": policy.whiten(advantages, mask, unbiased=False),
    } | {f"row{index}": row for index, row in enumerate(rows)}  # fmt: skip


def shaped(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    new, ref = tensor(inputs["logprob"]), tensor(inputs["ref_logprob"])
    mask, scores = torch.ones_like(new), tensor([inputs["score"]])

    def rewards_by(estimator: Estimator, scale: float) -> Tensor:
        return policy.shaped_rewards(
            policy.kl_estimate(new, ref, estimator), scores, mask, kl_coef=params["kl_coef"], scale=scale
        )

    return {
        "rewards": rewards_by(params["estimator"], 1),
        "llava_rlhf_rewards_times_10": rewards_by("k1_clamped", 10),
    }


def ppo_policy(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    old, new, mask = tensor(inputs["old"]), tensor(inputs["new"], learns=True), tensor(inputs["mask"])
    settings = PolicySettings(
        clip_low=params["clip_low"], clip_high=params["clip_high"], dual_clip=params["dual"]
    )
    terms = policy.policy_terms(new, old, tensor(inputs["advantages"]), mask, settings)
    total, count = policy.aggregate(terms.loss_BT, mask, "token_mean")
    loss = total / count
    loss.backward()
    return {
        "per_token": terms.loss_BT, "loss": loss, "grad_new": new.grad,
        "clip_fraction": terms.clipped_BT.sum() / mask.sum(),
        "approx_kl_mean": (policy.kl_estimate(old, new, "k1") * mask).sum() / mask.sum(),
        "approx_kl_half_sq": (policy.kl_estimate(new, old, "k2") * mask).sum() / mask.sum(),
    }  # fmt: skip


def value(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    values = tensor(inputs["values"], learns=True)
    terms = policy.value_terms(
        values, tensor(inputs["old_values"]), tensor(inputs["returns"]), clip=params["clip"]
    )
    loss = terms.mean() / 2
    loss.backward()
    return {"per_token": terms, "loss": loss, "grad": values.grad}


def group(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    table = tensor(inputs["rewards"])
    return {
        "trl_group": policy.group_advantages(table),
        "verl": policy.group_advantages(table, epsilon=1e-6),
        "openrlhf": policy.group_advantages(table, epsilon=1e-9),
        "dr_grpo": policy.group_advantages(table, scale="none"),
        "batch_scaled": policy.group_advantages(table, scale="batch"),
        "zero_std_groups": policy.silent_groups(table),
    }


def leave_one_out(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    table = tensor(inputs["rewards"])
    if "kl_sum_per_sequence" in inputs:
        table = table - params["beta"] * tensor(inputs["kl_sum_per_sequence"])
    flat = table.dim() == 1
    advantages = policy.leave_one_out_advantages(table[None] if flat else table)
    return {
        "advantages": advantages[0] if flat else advantages,
        "normalised": policy.standardize_batch(advantages),
    }


def group_with_gaps(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    return {"advantages": policy.group_advantages(tensor(inputs["rewards"])[None])[0]}


def several_rewards(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    tables = [tensor(inputs[f"reward{number}"]) for number in range(1, len(params["weights"]) + 1)]
    weighted = list(zip(params["weights"], tables, strict=True))
    apart = sum(weight * policy.group_advantages(table) for weight, table in weighted)
    together = policy.group_advantages(sum(weight * table for weight, table in weighted))
    return {"advantages": policy.standardize_batch(apart), "sum_then_normalize": together}


def group_policy(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    old, new, mask = tensor(inputs["old"]), tensor(inputs["new"], learns=True), tensor(inputs["mask"])
    settings = PolicySettings(
        ratio=params.get("kind", "token"),
        clip_low=params.get("lo", 0.2),
        clip_high=params.get("hi", 0.2),
        ratio_cap=params.get("delta"),
        kl_coef=params.get("beta", 0.0),
    )
    reference = tensor(inputs["ref"]) if "ref" in inputs else None
    terms = policy.policy_terms(new, old, tensor(inputs["advantages"]), mask, settings, reference)
    longest = params.get("max_completion_length") or 0
    total, count = policy.aggregate(terms.loss_BT, mask, AGGREGATIONS[params["mode"]], longest=longest)
    loss = total / count
    loss.backward()
    return {"per_token": terms.loss_BT, "loss": loss, "grad_new": new.grad}


def cispo(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    old, new, mask = tensor(inputs["old"]), tensor(inputs["new"], learns=True), tensor(inputs["mask"])
    settings = PolicySettings(clip_high=params["epsilon_high"], constant_weight=True)
    terms = policy.policy_terms(new, old, tensor(inputs["advantages"]), mask, settings)
    total, count = policy.aggregate(terms.loss_BT, mask, "token_mean")
    loss = total / count
    loss.backward()
    return {"per_token": terms.loss_BT, "loss": loss, "grad_new": new.grad}


def token_weights(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    """The gradient of one token's loss under each aggregation."""
    lengths = [int(length) for length in inputs["lengths"]]
    mask = tensor([[float(t < length) for t in range(max(lengths))] for length in lengths])

    def weights(how: Aggregation) -> Tensor:
        loss = torch.zeros_like(mask, requires_grad=True)
        total, count = policy.aggregate(loss, mask, how, longest=params["max_completion_length"])
        (total / count).backward()
        return loss.grad[:, 0]

    return {
        "grpo_weight_per_token": weights("sequence_mean"), "token_mean": weights("token_mean"),
        "dr_grpo": weights("constant"),
    }  # fmt: skip


def group_filter(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    return {"keep": policy.keep_groups(tensor(inputs["binary_accuracy"])).double()}


def critic(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    rewards = policy.comparison_rewards(tensor(inputs["a"]))
    return {"rewards": rewards, "chosen": rewards.argmax(), "rejected": rewards.argmin()}


def overlong(inputs: Inputs, params: Inputs) -> dict[str, Tensor]:
    return {
        "penalty": policy.soft_overlong(
            tensor(inputs["lengths"]), longest=params["max"], buffer=params["buffer"]
        )
    }


RUNS: dict[str, Callable[[Inputs, Inputs], dict[str, Tensor]]] = {
    **{f"DPO {name}": pair_loss(name) for name in PAIR_LOSSES},
    "DPO metrics": metrics,
    "MPO 0.8 sigmoid + 0.2 bco + 1.0 sft": mpo,
    "f-DPO sigmoid": f_divergence,
    "LD-DPO length-desensitised log-prob": length_desensitised,
    "SimPO": pair_loss("simpo"),
    "CPO": pair_loss("cpo"),
    "ORPO": orpo,
    "KTO": kto_losses,
    "reward model": rewards,
    "KL estimators": kl,
    "adaptive KL controller": kl_control,
    "GAE": gae,
    "GAE of each row alone = GAE of the batch": gae,
    "per-token KL reward, score on the last real token": shaped,
    "PPO clipped policy loss, token mean": ppo_policy,
    "clipped value loss": value,
    "group advantages": group,
    "RLOO advantages": leave_one_out,
    "RLOO with one unscorable answer": leave_one_out,
    "RLOO with sequence KL in the reward": leave_one_out,
    "GRPO with one unscorable answer": group_with_gaps,
    "GDPO: normalise each reward in its group, sum, normalise over the batch": several_rewards,
    "group policy loss": group_policy,
    "GSPO, both sequences clipped": group_policy,
    "first update: ratio is 1": group_policy,
    "CISPO (clipped weight is a constant)": cispo,
    "weight of one token under each aggregation": token_weights,
    "which groups carry signal": group_filter,
    "soft overlong penalty": overlong,
    "LLaVA-Critic reward from all ordered pairs": critic,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_numbers_are_those_of_published_code(case):
    found = RUNS[case["algo"]](case["inputs"], case["params"])
    for name, expected in case["expected"].items():
        want = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(
            found[name].detach().double(),
            want,
            rtol=1e-6,
            atol=2e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_teach_exactly_nothing(dtype):
    """0.1 + 0.1 + 0.1 is not 0.3: a mean that is rounded would leave something."""
    rows = [
        [reward] * size + [float("nan")] * (8 - size)
        for reward in (0.1, 0.9, -0.7, 1e6)
        for size in (3, 7, 8)
    ]
    rewards = torch.tensor(rows, dtype=dtype)
    assert policy.silent_groups(rewards) == 1
    for advantages in (
        policy.group_advantages(rewards),
        policy.group_advantages(rewards, scale="none"),
        policy.group_advantages(rewards[:3], scale="batch"),
        policy.leave_one_out_advantages(rewards),
    ):
        assert (advantages == 0).all()
    nobody = torch.full((1, 3), torch.nan, dtype=dtype)
    somebody = torch.tensor([[0.5, torch.nan, torch.nan]], dtype=dtype)
    for scale in ("group", "batch", "none"):
        assert all((policy.group_advantages(few, scale=scale) == 0).all() for few in (nobody, somebody))
