"""An agent behind the chat door: the server runs the tools, and the client hears of it."""

import json
from contextlib import closing

import pytest
from fastapi.testclient import TestClient

from llavakit.agent.opening import AgentConfig
from llavakit.serve.agent import Toolbox
from llavakit.serve.app import create_app
from llavakit.serve.decoding import Decoders
from tests import tiny
from tests.agent.scripted import call
from tests.serve import live
from tests.serve.test_decoding import rle_bomb
from tests.serve.test_media import data_url
from tests.vision.clips import write_clip

LINES = (f"I cut it. {call('crop', box=[0, 0, 0.5, 0.5])}", "I cropped img_1.")


@pytest.fixture
def agent(tmp_path):
    def open_it(*texts, **settings):
        config = AgentConfig(tools=("crop", "calculate"), **settings)
        worker = live.ScriptedWorker(*texts)
        return live.client(worker, toolbox=Toolbox(config)), worker

    return open_it


def question(tmp_path, **fields):
    content = [{"type": "text", "text": "Cut it."}, live.image_part(tiny.picture(tmp_path / "x.png"))]
    return live.asked(content, **fields)


def test_the_server_runs_the_tools_and_the_answer_names_the_call(agent, tmp_path):
    client, worker = agent(*LINES, runs=tmp_path / "runs")
    with client as found:
        answer = found.post(live.CHAT, json=question(tmp_path)).json()
    [choice] = answer["choices"]
    assert choice["message"]["content"] == "I cropped img_1. [call_1]" and choice["finish_reason"] == "stop"
    thoughts = choice["message"]["reasoning_content"]
    assert "call_1: crop(" in thoughts and 'call_1 gave {"size": [20, 15]' in thoughts
    assert answer["usage"]["prompt_tokens"] > 50 and answer["usage"]["completion_tokens"] > 10
    assert len(worker.requests) == 2 and len(worker.requests[1].sample.media) == 2, "the cut picture is seen"
    [run] = (tmp_path / "runs").glob("run-*/run.jsonl")
    assert json.loads(run.read_text().splitlines()[-1])["kind"] == "answered"


def test_a_stream_tells_thoughts_first_and_the_answer_last(agent, tmp_path):
    client, _ = agent(*LINES)
    with client as found:
        told = live.chunks(found.post(live.CHAT, json=question(tmp_path, stream=True)).text)
    deltas = [choice["delta"] for chunk in told for choice in chunk["choices"]]
    kinds = ["thought" if "reasoning_content" in delta else "text" for delta in deltas if delta.get("content") or
             "reasoning_content" in delta]  # fmt: skip
    assert kinds == sorted(kinds, reverse=True) and kinds[-1] == "text"


def test_what_was_said_before_is_history(agent, tmp_path):
    client, worker = agent("Four. I remember.")
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "In words?"},
    ]
    with client as found:
        answer = found.post(live.CHAT, json=live.asked() | {"messages": messages}).json()
    assert answer["choices"][0]["message"]["content"] == "Four. I remember.\n[no tool was used]"
    prompt = worker.tokenizer.decode([token for token in worker.requests[0].sample.ids if token >= 0])
    assert prompt.index("How many?") < prompt.index("In words?")


def test_what_a_rule_asks_about_is_refused_where_nobody_is(agent, tmp_path):
    (tmp_path / "p.yaml").write_text("reading: ask")
    client, _ = agent(*LINES, policy=tmp_path / "p.yaml")
    with client as found:
        answer = found.post(live.CHAT, json=question(tmp_path)).json()
    text = answer["choices"][0]["message"]["content"]
    assert "[no call did this]" in text and "nobody is there to allow it" in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_the_loop_has_no_place_for_is_refused(agent, fields, param):
    client, worker = agent("x")
    with client as found:
        answer = found.post(live.CHAT, json=live.asked(**fields))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param and worker.requests == []


def test_a_real_tiny_model_answers_through_the_loop(tmp_path):
    box = Toolbox(AgentConfig(form="json", tools=("calculate",), budget={"steps": 2}))
    with live.client(toolbox=box) as found:
        answer = found.post(live.CHAT, json=question(tmp_path, max_tokens=60, temperature=1, seed=1)).json()
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_pictures_are_decoded_in_the_processes_for_that(tmp_path, monkeypatch):
    def here(*_):
        raise AssertionError("decoded in the server's process")

    made = live.service(live.ScriptedWorker(*LINES), toolbox=Toolbox(AgentConfig(tools=("crop",))))
    monkeypatch.setattr("llavakit.vision.image._decoded", here)
    with TestClient(create_app(made)) as found:
        answer = found.post(live.CHAT, json=question(tmp_path)).json()
    assert answer["choices"][0]["message"]["content"] == "I cropped img_1. [call_1]"
    assert len(made.worker.requests[1].sample.media) == 2
    assert made.memory.peak > 0 == made.memory.taken


def test_a_picture_has_the_time_here_that_pictures_have():
    slow = {"type": "image_url", "image_url": {"url": data_url(rle_bomb(7000))}}
    with closing(Decoders(1, 1.0)) as own:
        made = live.service(live.ScriptedWorker("x"), toolbox=Toolbox(AgentConfig(tools=("crop",))), own=own)
        with TestClient(create_app(made)) as found:
            answer = found.post(live.CHAT, json=live.asked([slow, {"type": "text", "text": "?"}]))
    assert answer.status_code == 400 and "not decoded within 1 s" in answer.json()["error"]["message"]
    assert made.worker.requests == []


def test_a_video_is_refused_not_left_out(agent, tmp_path):
    client, worker = agent("x")
    clip = data_url(write_clip(tmp_path / "clip.mp4").read_bytes(), "video/mp4")
    video = {"type": "video_url", "video_url": {"url": clip}}
    with client as found:
        answer = found.post(live.CHAT, json=live.asked([video, {"type": "text", "text": "?"}]))
    assert answer.status_code == 400 and worker.requests == []
    assert answer.json()["error"]["param"] == "messages[0].content[0].video_url.url"
