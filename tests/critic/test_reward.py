"""A judge as a reward: what answers won against each other, and rounds of all of it in one run."""

from functools import partial

import pytest

from llavakit.align.opening import open_policy
from llavakit.align.rewards.composer import Composer
from llavakit.align.rollouts import Rollout, read_rollouts
from llavakit.core import config
from llavakit.core.errors import ConfigError
from llavakit.critic.reward import CriticScores
from llavakit.text.conversation import Conversation, user
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.reward_terms import RewardsConfig
from tests.align.test_rounds import policy_run
from tests.critic.scripted import ScriptedJudge, longest


def composed(**term):
    return config.make(RewardsConfig, {"terms": {"critic": {"model": "somewhere", **term}}}, where="test")


def answered(group: int, *texts: str) -> list[Rollout]:
    prompt = Conversation((user("Which?"),))
    return [
        Rollout("f:1", group, choice, prompt, "", (1,), (0.0,), text, "stop")
        for choice, text in enumerate(texts)
    ]


def opened(say):
    return partial(CriticScores, open_responder=lambda where: ScriptedJudge(say))


def test_answers_are_compared_within_their_group_and_those_alike_share_a_reward():
    rollouts = answered(0, "xx", "x", " xx ", "xxx") + answered(1, "one", "one") + answered(2, "", "y")
    with Composer(composed(), open_critic=opened(longest)) as composer:
        rows = composer.scores(rollouts)
    assert [row["critic"] for row in rows] == [0, -4, 0, 4, 0, 0, -2, 2]
    assert [row["total"] for row in rows] == [row["critic"] for row in rows]


def test_a_group_whose_verdicts_cannot_be_read_is_unscorable_and_others_are_not():
    def sometimes(prompt):
        return "I like both." if "odd" in prompt else longest(prompt)

    rollouts = answered(0, "odd one", "odd") + answered(1, "xx", "x")
    with Composer(composed(), open_critic=opened(sometimes)) as composer:
        assert [row["critic"] for row in composer.scores(rollouts)] == [None, None, 2, -2]
        assert composer.unscorable[0] == "critic: f:1: too few verdicts could be read"


def test_formats_for_single_answers_and_a_missing_opener_are_refused():
    with pytest.raises(ConfigError, match=r"format for 2 answers"):
        Composer(composed(format="score"), open_critic=opened(longest))
    with pytest.raises(ConfigError, match="a critic needs somebody who opens one"):
        Composer(composed())


def test_rounds_of_answers_verdicts_and_dpo_steps_are_one_run(tmp_path):
    run = policy_run(
        tmp_path, "critic",
        **{
            "policy.learn": "pairs", "preference": "{beta: 0.5}", "policy.tries": 3,
            "policy.rewards.terms": "{critic: {model: somewhere}}",
        },
    )  # fmt: skip
    train(run, policy=partial(open_policy, open_critic=opened(longest)))
    rounds = [read_rollouts(file) for file in sorted((run.out / "rollouts").glob("round*.jsonl"))]
    assert len(rounds) == 2
    rows = read_metrics(run.out / "metrics.jsonl")
    told = [row for row in rows if "reward/critic" in row]
    assert [row["step"] for row in told] == [1, 3]
    assert all(row["reward/critic"] == 0 for row in told)  # what one answer wins another loses
    assert all(row["loss"] > 0 for row in rows)
