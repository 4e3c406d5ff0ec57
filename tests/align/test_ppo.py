"""PPO: policy and value as adapters on one base, the reference as what the policy was."""

import random
from dataclasses import replace

import pytest
import torch

from llavakit.align.advantages import value_columns
from llavakit.align.experience import Experience, make_batch, plan_rows, read_experiences, split_columns
from llavakit.align.opening import open_policy
from llavakit.align.pictures import Pictures
from llavakit.align.prompts import Prompts
from llavakit.align.reward_model import open_reward_model
from llavakit.align.shared_reward import OnPolicyBase, open_beside
from llavakit.align.value import ValueModel
from llavakit.core import config as settings
from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.data.loader import Loader
from llavakit.data.settings import DataConfig
from llavakit.engine.engine import Engine
from llavakit.model import checkpoint as checkpoints
from llavakit.model.adapters import Adapter, adapter_parameters, add_adapters, learn_adapters_only
from llavakit.model.build import build
from llavakit.model.directory import resolve
from llavakit.model.settings import LoraSettings
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.train.dry_run import show_plan
from llavakit.train.freezing import train_only
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.policy_objective import VALUE, PolicyObjective
from llavakit.train.policy_settings import Algorithm, PolicyConfig
from llavakit.train.ranks import ALONE
from tests import tiny
from tests.align.test_rounds import interrupt, made_up, policy_run, write_questions
from tests.train.test_reward import reward_run

LORA = {"model.lora": "{r: 4}", "train": "[language]", "policy.answers": 2}


def ppo_run(folder, name="ppo", **changes):
    return policy_run(folder, name, **{**LORA, "policy.algorithm": "ppo", **changes})


def adapted_checkpoint():
    ck = tiny.checkpoint()
    lora = LoraSettings(r=4)
    add_adapters(ck.model, lora)
    ck.model.requires_grad_(False)
    learn_adapters_only(ck.model.language)
    ck.adapter = Adapter(lora, None)
    return ck


@pytest.mark.parametrize("algorithm", ["ppo", "ppo_llava_rlhf", "ppo_alpaca_farm"])
def test_policy_and_value_learn_from_scored_answers(tmp_path, algorithm):
    run = ppo_run(tmp_path, **{"policy.algorithm": algorithm, "policy.epochs": 2, "optim.steps": 8})
    train(run, policy=open_policy)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert all(row["drift_p99"] < 1e-3 for row in rows if "drift" in row)
    assert rows[0]["kl_old"] < 1e-9 and rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[3]["value_error"] < rows[0]["value_error"]  # the same answers, learned once more
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert {"advantages", "returns", "values", "old", "reference"} <= found[0].columns.keys()
    assert all(value == 0 for each in found for value in each.columns["values"])  # a head of zeros
    again = checkpoints.load(run.out)  # an ordinary directory: the policy's adapters alone
    assert again.adapter is not None and (resolve(run.out) / "value.safetensors").is_file()


def test_adapters_keep_learning_after_switching(tmp_path):
    """peft freezes whatever is not in use; here each step's gradients reach both, and never the base."""
    ck = adapted_checkpoint()
    value = ValueModel(ck)
    torch.nn.init.ones_(value.head.weight)
    batches, _ = rows_of(tmp_path)
    config = settings.override(PolicyConfig(), ["algorithm=ppo"])
    for _ in range(2):
        ck.model.zero_grad()
        train_step(ck.model, PolicyObjective(config, value), batches, precision="float32")
        for name in ("default", "value"):
            learned = adapter_parameters(ck.model.language, name)
            assert all(each.requires_grad for each in learned.values())
            assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in learned.values())
        value.use_policy()
        value.values(batches[0])
        value.use_policy()
    frozen = [name for name, each in ck.model.named_parameters() if not each.requires_grad]
    assert len(frozen) > 20 and all("lora_" not in name for name in frozen)


def test_two_adapters_do_not_see_each_other(tmp_path):
    ck = adapted_checkpoint()
    batches, _ = rows_of(tmp_path)
    before = ck.model.hidden(batches[1]).detach()
    value = ValueModel(ck)
    with torch.no_grad():
        for parameter in adapter_parameters(ck.model.language, "value").values():
            parameter.add_(0.1)
    value.values(batches[0])
    value.use_policy()
    torch.testing.assert_close(ck.model.hidden(batches[1]), before, rtol=0, atol=0)


def rows_of(tmp_path, budget: int = 2000):
    """Rows for value and policy from made-up answers, and the experiences."""
    loader = Loader(DataConfig(files=(write_questions(tmp_path),), tokens=2000), tiny.encoder(), seed=0)
    prompts = [prompt for _, prompt in Prompts(loader, 9, Pictures()).take(0, 8, 0, 1)]
    dice = random.Random(0)
    experiences = [
        made_up(prompt, group, choice, dice) for group, prompt in enumerate(prompts) for choice in (0, 1)
    ]
    experiences = [
        each.with_columns(
            {name: [dice.uniform(-1, 1) for _ in each.rollout.ids] for name in VALUE[:2]}
        ).with_columns({"span": [0.5] * len(each.rollout.ids)})
        for each in experiences
    ]
    rows = plan_rows(
        experiences, lambda each: prompts[each.group].sample, loader.encoder.encode_reply, budget
    )
    apart = [split_columns(make_batch(row, experiences, loader.tiles), VALUE) for row in rows]
    return [batch for batch, _ in apart] + [batch for _, batch in apart], experiences


def test_any_split_of_a_step_gives_the_same_loss(tmp_path):
    config = settings.override(PolicyConfig(), ["algorithm=ppo"])
    ck = adapted_checkpoint()
    objective = PolicyObjective(config, ValueModel(ck))
    (whole, figures), (split, others) = (
        train_step(ck.model, objective, rows_of(tmp_path, budget)[0], precision="float32")
        for budget in (2000, 60)
    )
    assert whole == pytest.approx(split, rel=1e-4)
    assert figures == pytest.approx(others, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, stop):
    whole, cut = ppo_run(tmp_path, "whole"), ppo_run(tmp_path, "cut")
    train(whole, policy=open_policy)
    interrupt(cut, stop)
    train(cut, resume=True, policy=open_policy)
    assert read_rows(cut) == read_rows(whole)
    mine, theirs = (resolve(run.out) / "value.safetensors" for run in (cut, whole))
    assert mine.read_bytes() == theirs.read_bytes()


def read_rows(run):
    noise = ("seconds", "rollout_seconds", "tokens_per_second", "mfu")
    rows = read_metrics(run.out / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in noise} for row in rows]


def test_advantages_by_hand_and_of_what_cannot_be_scored(tmp_path):
    """One token: reward minus KL minus value. Returns of the unscorable are what the value model says already."""
    _, [first, second, *_] = rows_of(tmp_path)
    known, none = (
        Experience(cut(each, 1).rollout, {"total": total}).with_columns(
            {"old": [-1.0], "reference": [-1.5], "values": [0.25]}
        )
        for each, total in ((first, 2.0), (second, None))
    )
    how = Algorithm.model_validate(
        {
            "advantage": "gae",
            "kl_in": "reward",
            "kl_estimator": "k1",
            "value": {"whiten": "none", "clip_in": "units"},
        }
    )
    good, bad = value_columns([known, none], how, 0.1, ALONE)
    assert good.columns["advantages"] == pytest.approx([2 - 0.1 * 0.5 - 0.25])
    assert good.columns["returns"] == pytest.approx([2 - 0.05])
    assert bad.columns["advantages"] == (0,) and bad.columns["returns"] == (0.25,)
    assert bad.columns["span"] == (1,)
    beside, _ = value_columns([known, none], how.model_copy(update={"kl_in": "loss"}), 0.1, ALONE)
    assert beside.columns["returns"] == pytest.approx([2])  # the loss has the KL then


def cut(experience: Experience, tokens: int) -> Experience:
    rollout = experience.rollout
    return replace(
        experience, rollout=replace(rollout, ids=rollout.ids[:tokens], logprobs=rollout.logprobs[:tokens])
    )


def test_a_question_mark_cuts_nothing_unless_asked(tmp_path):
    """Random answers have one now and then; with `cut_at` they end there, without an end token."""
    plain = ppo_run(
        tmp_path,
        "plain",
        **{"policy.max_tokens": 30, "policy.prompts": 8, "optim.steps": 1, "policy.cut_at": "null"},
    )
    asked = ppo_run(
        tmp_path,
        "asked",
        **{"policy.max_tokens": 30, "policy.prompts": 8, "optim.steps": 1, "policy.cut_at": "e"},
    )
    for run in (plain, asked):
        train(settings.override(run, ["policy.minibatches=1", "data.tokens=400"]), policy=open_policy)
    whole, short = (read_experiences(run.out / "rollouts" / "round000000.jsonl") for run in (plain, asked))
    longer = 0
    for a, b in zip(whole, short, strict=True):
        at = a.rollout.text.find("e")
        if at < 0:
            assert a.rollout == b.rollout
            continue
        longer += len(a.rollout.ids) > len(b.rollout.ids)
        assert b.rollout.ids == a.rollout.ids[: len(b.rollout.ids)]
        assert b.rollout.finish == "length" and "e" in b.rollout.text
    assert longer > 3


def test_what_ppo_needs_is_said(tmp_path, capsys):
    assert show_plan(ppo_run(tmp_path)) == []
    told = capsys.readouterr().out
    assert "value 0" in told and "sharded" not in told  # the base of two roles cannot be
    with pytest.raises(ConfigError, match=r"give model.lora"):
        train(policy_run(tmp_path, **{"policy.algorithm": "ppo"}), policy=open_policy)
    run = ppo_run(tmp_path, "gone")
    interrupt(run, 2)
    (resolve(run.out) / "value.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"value.safetensors is not there"):
        train(run, resume=True, policy=open_policy)


def test_the_value_model_may_begin_as_the_reward_model(tmp_path):
    """Its adapters and its head, on the same base; the reward of the answers is the same model's, as a term."""
    reward = reward_run(tmp_path, **{"model.lora": "{r: 4}", "optim.steps": 2})
    train(reward)
    terms = f"{{terms: {{rm: {{model: {reward.out}, facts: false}}}}}}"
    start = {"policy.algorithm.value.start": reward.out}
    run = ppo_run(
        tmp_path, **start, **{"policy.rewards": terms, "optim.steps": 2, "policy.algorithm.kl_coef": 0}
    )
    train(run, policy=open_policy)
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert len({each.scores["rm"] for each in found}) > 3
    assert all(value != 0 for each in found for value in each.columns["values"])
    taught = checkpoints.load(reward.out)
    ck = adapted_checkpoint()
    ck.adapter = Adapter(LoraSettings(r=4), run.model.start)
    value = ValueModel(ck)
    value.begin_from(reward.out)
    theirs = adapter_parameters(taught.model.language)
    for name, mine in adapter_parameters(ck.model.language, "value").items():
        torch.testing.assert_close(mine, theirs[name.replace(".value.", ".default.")])
    for changes in ({"model.lora": "{r: 8}"}, {"policy.algorithm.value.start": run.model.start}):
        with pytest.raises(ConfigError, match="no reward model as adapters on the base and connector"):
            train(ppo_run(tmp_path, "wrong", **(start | changes)), policy=open_policy)


def test_a_reward_model_on_the_policys_base_scores_as_one_of_its_own(tmp_path):
    reward = reward_run(tmp_path, **{"model.lora": "{r: 4}", "optim.steps": 2})
    train(reward)
    run = ppo_run(tmp_path)
    ck = build(run.model)
    train_only(ck.model, ("language",), adapter=ck.adapter)
    ValueModel(ck)
    shared, alone = open_beside(run, ck, str(reward.out)), open_reward_model(reward.out)
    assert isinstance(shared.engine, OnPolicyBase) and isinstance(alone.engine, Engine)
    image = tiny.picture(tmp_path / "y.png", seed=3)
    talks = [
        Conversation((user("What is it?", [image]), assistant(text))) for text in ("a red one", "no", "yes")
    ]
    before = [each.requires_grad for each in ck.model.parameters()]
    assert shared.scores(talks) == pytest.approx(alone.scores(talks), abs=1e-4)
    assert [each.requires_grad for each in ck.model.parameters()] == before
    learned = [name for name, each in ck.model.named_parameters() if each.requires_grad and "lora_" in name]
    assert {name.split(".")[-2] for name in learned} == {"default", "value"}
    other = build(ppo_run(tmp_path, **{"model.lora": "{r: 8}"}).model)
    train_only(other.model, ("language",), adapter=other.adapter)
    assert isinstance(open_beside(run, other, str(reward.out)).engine, Engine)
