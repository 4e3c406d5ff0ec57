"""Rewards over HTTP: the numbers of the model, what is refused, and a reward that asks a server."""

import pytest
from starlette.testclient import TestClient

from llavakit.align import remote_reward
from llavakit.align.remote_reward import RemoteRewardModel
from llavakit.align.reward_model import RewardModel, Unscorable, open_reward_model
from llavakit.data.encode import Encoder
from llavakit.engine.engine import Engine
from llavakit.model import checkpoint as checkpoints
from llavakit.serve.app import create_app
from llavakit.serve.service import Service
from llavakit.serve.settings import ServeConfig
from llavakit.text.conversation import Conversation, assistant, user
from tests import tiny
from tests.serve import live

POOLING = "/pooling"


def scorer(facts: bool = False) -> RewardModel:
    made = tiny.reward_checkpoint(facts=facts)
    encoder = Encoder(made.tokenizer, made.card.prompt(), made.card.image, context=made.model.context)
    return RewardModel(Engine(made.model, frozenset(), tokenizer=made.tokenizer), encoder, made.card.grading)


def service(facts: bool = False) -> Service:
    made, settings = scorer(facts), ServeConfig(model_name="tiny")
    return Service(made.engine, made.encoder, settings, grading=made.grading, decoders=live.decoders())


@pytest.fixture(scope="module")
def found():
    with TestClient(create_app(service()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def informed():
    with TestClient(create_app(service(facts=True)), raise_server_exceptions=False) as client:
        yield client


def asked(*contents, **fields) -> dict:
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": said} for role, said in zip(roles, contents, strict=False)]
    return {"model": "tiny", "messages": messages} | fields


def score(client, *contents, **fields) -> float:
    answer = client.post(POOLING, json=asked(*contents, **fields))
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    (value,) = entry["data"]
    return value


def question(path):
    return [live.image_part(path), {"type": "text", "text": "What is it?"}]


def test_the_number_is_the_models_and_the_shape_is_vllms(found, tmp_path):
    path = tiny.picture(tmp_path / "x.png")
    talk = Conversation((user("What is it?", [path]), assistant("a red circle")))
    answer = found.post(POOLING, json=asked(question(path), "a red circle")).json()
    (entry,) = answer["data"]
    assert entry == {
        "object": "pooling",
        "index": 0,
        "data": pytest.approx(scorer().scores([talk]), abs=1e-4),
    }
    assert answer["object"] == "list" and answer["model"] == "tiny" and answer["id"].startswith("pool-")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 20
    assert score(found, question(path), "no") != entry["data"][0]


def test_facts_are_taken_demanded_and_withheld(found, informed):
    with_facts = scorer(True).scores([Conversation((user("hi"), assistant("yes")))], [["It is red."]])
    assert score(informed, "hi", "yes", facts=["It is red."]) == pytest.approx(with_facts[0], abs=1e-4)
    assert score(informed, "hi", "yes", facts=[]) == score(found, "hi", "yes")
    refused = informed.post(POOLING, json=asked("hi", "yes"))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "facts"
    entry = informed.get("/v1/models").json()["data"][0]
    assert (entry["scores"], entry["wants_facts"]) == (True, True)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (asked("hi"), 400, "the last message must be the assistant's"),
        (asked("hi", " "), 400, "an answer is empty"),
        (asked("hi", "yes " * 600), 400, "do not fit the model's context"),
        (asked("hi", "yes", input="x"), 400, "unknown or unsupported field"),
        (asked("hi", "yes", task="embed"), 400, "cannot honour"),
        (asked("hi", "yes") | {"model": "other"}, 404, "not served here"),
    ],
)
def test_what_cannot_be_scored_is_refused(found, body, status, said):
    answer = found.post(POOLING, json=body)
    assert answer.status_code == status and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (live.CHAT, live.asked()),
        ("/v1/responses", {"model": "tiny", "input": "hi"}),
        ("/v1/completions", {"model": "tiny", "prompt": "hi"}),
        ("/v1/embeddings", {"model": "tiny", "input": "hi"}),
    ],
)
def test_a_reward_model_answers_nothing(found, path, body):
    answer = found.post(path, json=body)
    assert answer.status_code == 400
    assert (
        "is a reward model: it scores (POST /pooling) and does not answer"
        in answer.json()["error"]["message"]
    )


def test_a_model_that_answers_scores_nothing():
    with live.client() as plain:
        answer = plain.post(POOLING, json=asked("hi", "yes"))
        assert answer.status_code == 400 and "scores nothing" in answer.json()["error"]["message"]
        assert plain.get("/v1/models").json()["data"][0]["scores"] is False


def test_a_reward_is_had_by_url(tmp_path):
    path = tiny.picture(tmp_path / "x.png")
    talks = [
        Conversation((user("What is it?", [path]), assistant(text))) for text in ("red", " ", "a blue one")
    ]
    here = scorer().scores(talks)
    with live.serving(service()) as url:
        there = RemoteRewardModel(url).scores(talks)
    assert [there[0], there[2]] == pytest.approx([here[0], here[2]], abs=1e-4)
    assert isinstance(there[1], Unscorable) and "an answer is empty" in there[1].reason
    with live.serving(service(facts=True)) as url:
        remote = RemoteRewardModel(url)
        assert remote.wants_facts
        facts = [["It is red."]] * 3
        assert remote.scores(talks, facts)[0] == pytest.approx(scorer(True).scores(talks, facts)[0], abs=1e-4)
        assert remote.scores(talks)[0] == pytest.approx(here[0], abs=1e-4)


def test_what_is_not_one_number_is_no_reward():
    for answer in ({"data": [{"data": [[0.1], [0.2]]}]}, {"data": [{"data": ["x"]}]}, {"data": []}, "busy"):
        assert isinstance(remote_reward._read(answer), Unscorable)


def test_options_are_followed_or_refused_and_never_passed_over(tmp_path, run):
    made = tiny.reward_checkpoint()
    checkpoints.save(made, tmp_path / "reward")
    wide = open_reward_model(tmp_path / "reward", rope_factor=2.0)
    assert wide.encoder.context == 2 * open_reward_model(tmp_path / "reward").encoder.context
    for option in ("--kv-gb=1", "--max-sequences=3", "--step-tokens=64"):
        code, _, err = run("serve", "--model", tmp_path / "reward", "--port", 0, option)
        assert (
            code == 2 and f"{option}: " in err and "makes no answers to be limited" in " ".join(err.split())
        )
    other = open_reward_model(tmp_path / "reward", template_name="vicuna_v1")
    assert other.encoder.template.name == "vicuna_v1" != made.card.template
