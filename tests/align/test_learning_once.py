"""Answers that are learned from once: the pass that learns says what a pass before it would have said."""

from collections import Counter

import pytest
import torch

from llavakit.align.drawn import Drawn
from llavakit.align.experience import read_experiences
from llavakit.align.opening import open_policy
from llavakit.core import config as settings
from llavakit.model.llava import Llava
from llavakit.model.tower import ViTTower
from llavakit.train.loop import train
from llavakit.train.policy_settings import PolicyConfig
from tests.align.test_rounds import many_pictures, policy_run, roll_out, rows_and_weights


@pytest.fixture
def passes(monkeypatch):
    """How many rows went through the model that learns."""
    hidden, rows = Llava.hidden, []

    def count(self, *given):
        rows.append(given)
        return hidden(self, *given)

    monkeypatch.setattr(Llava, "hidden", count)
    return rows


@pytest.mark.parametrize(
    "algorithm", ["grpo", "{importance_cap: 1.0, aggregation: token_mean, ratio: sequence}"]
)
def test_it_is_what_a_pass_before_would_have_found(tmp_path, monkeypatch, passes, algorithm):
    """Weights and every figure, round by round, with a sampler that is not quite the learner; in fewer passes."""
    how = {
        "policy.algorithm": algorithm, "policy.minibatches": 1, "optim.steps": 3, "optim.lr": 1e-2,
        "data.tokens": 80, "policy.engine": "shared",
    }  # fmt: skip
    add = Drawn.add
    monkeypatch.setattr(
        Drawn, "add", lambda self, token, logprob: add(self, token, logprob + 0.1 * (token % 3 - 1))
    )
    found, counts = [], []
    for once in (True, False):
        monkeypatch.setattr(PolicyConfig, "learns_once", property(lambda _, once=once: once))
        run = policy_run(tmp_path, f"once_{once}", **how)
        roll_out(0, run)
        found.append(rows_and_weights(run))
        counts.append(len(passes))
        passes.clear()
    (mine, weights), (theirs, expected) = found
    assert len(mine) == 3
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    assert mine[0]["drift"] > 0.01 and mine[-1]["entropy"] > 0.1
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)
    learning, looks = counts[0], counts[1] - counts[0]
    assert learning == looks * (2 if algorithm == "grpo" else 1)  # the reference's passes are still there


@pytest.mark.parametrize(
    ("changes", "once"),
    [
        ({}, True),
        ({"algorithm": "dapo"}, True),
        ({"minibatches": 2}, False),
        ({"epochs": 2}, False),
        ({"temperature": 0.7}, False),
        ({"algorithm": "rloo"}, False),  # what strays is taken from rewards, before the step
        ({"algorithm": "ppo"}, False),
        ({"learn": "pairs"}, False),
    ],
)
def test_whoever_must_know_before_the_step_looks_before_it(changes, once):
    config = settings.override(PolicyConfig(), [f"{name}={value}" for name, value in changes.items()])
    assert config.learns_once == once


def test_a_tower_that_does_not_learn_sees_a_picture_once(tmp_path, monkeypatch):
    """For the sampler and all passes of the learner in all rounds."""
    forward, seen = ViTTower.forward, Counter()

    def count(self, pixels_NHWC):
        seen[id(self)] += len(pixels_NHWC)
        return forward(self, pixels_NHWC)

    monkeypatch.setattr(ViTTower, "forward", count)
    pictures = {"data.files": many_pictures(tmp_path, 4), "policy.epochs": 2, "train": "[connector]"}
    train(policy_run(tmp_path, **pictures), policy=open_policy)
    assert list(seen.values()) == [4]
    seen.clear()
    train(policy_run(tmp_path, "tower", **pictures | {"train": "[tower]"}), policy=open_policy)
    assert max(seen.values()) == 4 * (1 + 1 + 2)  # old, reference, and the steps of two epochs


def test_the_sampler_is_compared_after_the_step(tmp_path, monkeypatch, capsys):
    """The alarm comes as ever; a round's file has no column that only the step knows."""
    run = policy_run(tmp_path, **{"policy.minibatches": 1, "policy.drift": 1e-9, "optim.steps": 1})
    train(run, policy=open_policy)
    told = capsys.readouterr().out
    assert "round 0: reward" in told and "ALARM: sampler and learner differ" in told
    [first, *_] = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert first.columns.keys() == {"reference", "advantages"}
