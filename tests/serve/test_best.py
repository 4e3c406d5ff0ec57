"""Best of K over HTTP: several answers are drawn and judged, and one is told, whole or streamed."""

import pytest
from starlette.testclient import TestClient

from llavakit.core.errors import RemoteError
from llavakit.critic.formats import FORMATS
from llavakit.critic.judge import Judge
from llavakit.serve.app import create_app
from llavakit.serve.best import BestOf
from tests.critic.scripted import ScriptedJudge, longest
from tests.serve import live
from tests.serve.test_app import asked, chunks

TEXTS = ("a dog", "a large dog", "a dog", "")


def app(say=longest, texts=TEXTS, count=4):
    worker, judge = live.ScriptedWorker(texts), ScriptedJudge(say)
    made = live.service(worker, best_of=BestOf(Judge(judge, FORMATS["better"]), count))
    return TestClient(create_app(made), raise_server_exceptions=False), worker, judge


def test_the_answer_that_won_most_is_told():
    client, worker, judge = app()
    with client as found:
        answer = found.post(live.CHAT, json=asked()).json()
    [choice] = answer["choices"]
    assert (choice["index"], choice["message"]["content"], choice["finish_reason"]) == (
        0,
        "a large dog",
        "stop",
    )
    [drawn] = worker.requests
    assert (drawn.sampling.n, drawn.sampling.temperature, drawn.sampling.top_p) == (
        4,
        0.7,
        0.9,
    )  # greedy, made warm
    assert len(judge.asked) == 2  # the two that differ, in both orders
    said = sum(len(worker.tokenizer.hf(text)["input_ids"]) for text in TEXTS)
    assert answer["usage"]["completion_tokens"] == said  # all that were drawn


def test_a_stream_tells_the_best_one_alone():
    client, worker, _ = app()
    with client as found:
        told = chunks(found.post(live.CHAT, json=asked(stream=True, temperature=0.3)).text)
    choices = [choice for chunk in told for choice in chunk["choices"]]
    assert {choice["index"] for choice in choices} == {0}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "a large dog"
    assert worker.requests[0].sampling.temperature == 0.3


@pytest.mark.parametrize("say", [lambda _: "Both are fine.", lambda _: RemoteError("it is down")])
def test_where_the_judge_says_nothing_it_is_the_first_and_the_log_says_so(say, caplog):
    client, _, judge = app(say)
    with client as found, caplog.at_level("INFO"):
        answer = found.post(live.CHAT, json=asked()).json()
    assert judge.asked
    assert answer["choices"][0]["message"]["content"] == "a dog"
    told = [record.fields for record in caplog.records if "best_of" in getattr(record, "fields", {})]
    assert [(line["best_of"], line["judged"]) for line in told] == [(4, False)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ],
)
def test_what_texts_cannot_be_chosen_of_is_refused(fields, param):
    client, worker, _ = app()
    with client as found:
        answer = found.post(live.CHAT, json=asked(**fields))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert worker.requests == []
