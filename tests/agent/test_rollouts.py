"""Answers that call tools, as something to learn from: tokens, masks, pictures, rewards, and a resumed run."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from llavakit.agent.rollouts import open_loop
from llavakit.align.experience import make_batch, plan_rows, read_experiences
from llavakit.align.opening import open_policy
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError
from llavakit.core.types import IMAGE_ID
from llavakit.data.loader import Loader
from llavakit.engine.engine import Engine
from llavakit.engine.grammar import Grammar
from llavakit.text.conversation import Image
from llavakit.text.llava_plus import write_answer
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from tests import tiny
from tests.align.test_rounds import interrupt, rows_and_weights
from tests.train.test_loop import tiny_run

CALL = write_answer("edges", [{"API_name": "edges", "API_params": {"strength": 50}}], "")
with_tools = partial(open_policy, open_loop=open_loop)


class Script(Grammar):
    """Lets a model say these tokens and nothing else."""

    def __init__(self, ids):
        self._ids, self._at = ids, 0

    def begin(self):
        return Script(self._ids)

    def mask(self, scores_V):
        only = torch.full_like(scores_V, -torch.inf)
        only[self._ids[self._at]] = scores_V[self._ids[self._at]]
        return only

    def accept(self, token):
        self._at += 1

    @property
    def ended(self):
        return False


@pytest.fixture
def calling(monkeypatch):
    """Every other answer begins with a call; what follows is the model's own."""
    prepare = Engine.prepare
    tokenizer = tiny.encoder().tokenizer
    ids = [*tokenizer.hf(CALL)["input_ids"], *tokenizer.hf("<|im_end|>")["input_ids"]]

    def prepared(self, sample, sampling, **how):
        request = prepare(self, sample, sampling, **how)
        first = not any(sample.weights)
        return replace(request, grammar=Script(ids)) if first and sampling.seed % 2 == 0 else request

    monkeypatch.setattr(Engine, "prepare", prepared)
    return ids


def tool_run(folder, name="rl", **changes):
    """Two rounds of two prompts with two answers each, in the form of LLaVA-Plus."""
    run = tiny_run(folder, name, **{"data.tokens": 500, "optim.lr": 1e-3, "optim.steps": 4})
    tiny.picture(folder / "x.png", size=(40, 30))
    rows = [tiny.record(at, "x.png", [(f"What is {at}?", "red")]) for at in range(4)]
    (folder / "questions.json").write_text(json.dumps(rows))
    given = [
        f"data.files={folder / 'questions.json'}",
        "policy={prompts: 2, answers: 2, max_tokens: 110, minibatches: 2, rewards: {terms: {tool_use: 1}},"
        " tools: {names: [edges], form: llava_plus, steps: 1, result_tokens: 40}}",
    ]
    return settings.override(run, given + [f"{key}={value}" for key, value in changes.items()])


def test_only_the_models_own_tokens_are_learned_and_the_learner_reads_what_the_sampler_read(
    tmp_path, calling
):
    run = tool_run(tmp_path)
    train(run, policy=with_tools)
    told = [row for row in read_metrics(run.out / "metrics.jsonl") if "reward" in row]
    assert len(told) == 2 and all(row["drift"] < 1e-4 for row in told)
    assert all(row["calls"] == row["calls_used"] == row["reward/tool_use"] == 0.5 for row in told)
    found = read_experiences(run.out / "rollouts" / "round000000.jsonl")
    assert len(found) == 4
    called = [each.rollout for each in found if each.rollout.exchanges]
    assert len(called) == 2 and all(
        each.scores["tool_use"] == 1.0 for each in found if each.rollout.exchanges
    )
    for each in called:
        [exchange] = each.exchanges
        assert list(each.ids[: exchange.tokens]) == calling and len(each.ids) > exchange.tokens
        assert "edges model outputs" in exchange.reply.text
        [picture] = [part for part in exchange.reply.parts if isinstance(part, Image)]
        assert picture.source.parent == run.out / "rollouts" / "media"
    page = (run.out / "rollouts" / "round000000.html").read_text()
    assert "edges model outputs" in page

    loader = Loader(run.data, tiny.encoder(), seed=0)
    encode = loader.encoder.encode
    [*rows] = plan_rows(
        found, lambda each: encode(each.prompt, open_turn=True), loader.encoder.encode_reply, 4000
    )
    batches = [make_batch(row, found, loader.tiles) for row in rows]
    labels = [token for batch in batches for token in batch.labels_L.tolist()]
    assert labels == [token for row in rows for at in row.places for token in found[at].rollout.ids]
    samples = [sample for row in rows for sample in row.samples]
    pictures = sum(len(sample.media) for sample in samples)
    assert pictures == 2 + 2  # that of each prompt once, and those of the tool
    for sample in samples:
        assert all(
            weight == 0 for token, weight in zip(sample.ids, sample.weights, strict=True) if token == IMAGE_ID
        )


def test_a_resumed_run_with_tools_equals_one_that_was_not_stopped(tmp_path, calling):
    whole, cut = tool_run(tmp_path, "whole"), tool_run(tmp_path, "cut")
    train(whole, policy=with_tools)
    interrupt(cut, 1, policy=with_tools)
    train(cut, resume=True, policy=with_tools)
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(cut), rows_and_weights(whole)
    for row in (*mine, *theirs):
        row.pop("drift", None)  # of the sampler's numbers, the last bits of which depend on who ran beside
    assert mine == theirs
    assert all(torch.equal(mine_weights[key], their_weights[key]) for key in their_weights)


def test_without_calls_the_answers_are_those_of_a_model_without_tools(tmp_path):
    """In the form that tells of no tools; what the tiny model says is no call."""
    how = {"policy.rewards": "{terms: {stop_penalty: 1}}", "optim.steps": 1, "policy.max_tokens": 6}
    train(tool_run(tmp_path, "tools", **how), policy=with_tools)
    train(tool_run(tmp_path, "plain", **how, **{"policy.tools": "null"}), policy=open_policy)
    tools, plain = (
        [each.rollout.own[0] for each in read_experiences(tmp_path / name / "rollouts" / "round000000.jsonl")]
        for name in ("tools", "plain")
    )
    assert tools == plain


def test_tools_need_somebody_who_runs_them_and_answers_that_are_all_learned(tmp_path):
    with pytest.raises(ConfigError, match=r"policy.tools needs somebody who runs tools"):
        train(tool_run(tmp_path), policy=open_policy)
    with pytest.raises(ConfigError, match=r"learn=all"):
        tool_run(tmp_path, **{"policy.learn": "best"})
