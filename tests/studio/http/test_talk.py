"""The chat: the model sees the picture as it is, its words are kept, its calls become proposals."""

import json
from threading import Thread
from time import sleep

import numpy as np
import pytest
from fastapi.testclient import TestClient

from llavakit.core.errors import RemoteError
from llavakit.studio.conversing import LONGEST, conversation_about
from llavakit.studio.defaults import default_bench
from llavakit.studio.session import Session
from tests.studio.http.served import BYTES, Scripted, png, studio_app
from tests.studio.http.test_app import DRAWN, PHOTO, do, upload

REMOVE = '<tool_call>\n{"name": "remove", "arguments": {"box": [0.25, 0.5, 0.5, 0.75]}}\n</tool_call>'


class Looking(Scripted):
    """Names the colour that stands out in the picture it is shown: it is right about edits only if it sees them."""

    def stream(self, conversation, **_):
        pixels = np.asarray(conversation.messages[-1].images[-1].source, int)
        red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
        yield "a red thing" if red.mean() > 0.01 else "only sky"


@pytest.fixture
def model():
    return Scripted()


@pytest.fixture
def client(tmp_path, model):
    with TestClient(studio_app(tmp_path, model)[0]) as opened:
        yield opened


def ask(client, name: str, text: str) -> tuple[str, dict]:
    answer = client.post(f"/api/{name}/chat", json={"text": text})
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    return "".join(event["text"] for event in events[:-1]), events[-1]


def talk_of(client, name: str) -> list[dict]:
    return client.get(f"/api/{name}").json()["talk"]


def test_the_answer_is_about_what_is_on_the_canvas(tmp_path):
    with TestClient(studio_app(tmp_path, Looking())[0]) as client:
        name = upload(client)
        said = [ask(client, name, "What is there?")[0]]
        do(client, name, DRAWN)
        do(client, name, {"do": "remove", "fill": "preview"})
        said.append(ask(client, name, "And now?")[0])
        do(client, name, {"do": "undo"})
        said.append(ask(client, name, "And now?")[0])
    assert said == ["a red thing", "only sky", "a red thing"]


def test_an_answer_comes_in_pieces_and_both_turns_are_kept(client, model):
    name, model.lines = upload(client), ["It is a red box"]
    answer = client.post(f"/api/{name}/chat", json={"text": "What is it?"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") == 6
    assert [(turn["role"], turn["text"]) for turn in talk_of(client, name)] == [
        ("user", "What is it?"), ("assistant", "It is a red box"),
    ]  # fmt: skip


def test_an_edit_is_proposed_and_not_done(client, model):
    name, model.lines = upload(client), [f"Shall I take it away, [0.25, 0.5, 0.5, 0.75]? {REMOVE}"]
    assert ask(client, name, "Take it away")[1] == {"done": True, "troubles": []}
    [_, turn] = talk_of(client, name)
    assert turn["text"] == "Shall I take it away, [0.25, 0.5, 0.5, 0.75]?"
    assert turn["boxes"] == [[100, 150, 200, 225]]
    assert turn["proposal"] == [{"do": "select", "box": [100, 150, 200, 225]}, {"do": "remove"}]
    state = client.get(f"/api/{name}").json()
    assert state["selection"] is None and not state["can_undo"]


def test_a_proposal_for_a_picture_that_has_changed_says_so(client, model):
    name, model.lines = upload(client), [f"Shall I? {REMOVE}"]
    ask(client, name, "Take it away")
    told = [talk_of(client, name)[-1]["outdated"]]
    for command in (DRAWN, {"do": "remove", "fill": "preview"}, {"do": "undo"}):
        do(client, name, command)
        told.append(talk_of(client, name)[-1]["outdated"])
    assert told == [False, False, True, False]


def test_a_stopped_answer_is_kept_as_far_as_it_came(client, model, tmp_path):
    name, model.lines = upload(client), ["one two three four", "again"]
    model.wait.clear()
    got = []
    asking = Thread(target=lambda: got.append(ask(client, name, "Count")))
    asking.start()
    while not model.heard:
        pass
    second = client.post(f"/api/{name}/chat", json={"text": "And?"})
    assert "under way" in second.text  # one answer at a time
    client.post(f"/api/{name}/chat/stop", json={})
    model.wait.set()
    asking.join()
    assert got[0][0] in ("one", "one two")
    assert talk_of(client, name)[-1]["text"] == got[0][0]
    assert ask(client, name, "Go on")[0] == "again"


def test_a_model_that_fails_is_told_and_the_question_stays(client, model, monkeypatch):
    def fails(*_, **__):
        yield "Well,"
        raise RemoteError("http://127.0.0.1:9 cannot be reached")

    monkeypatch.setattr(model, "stream", fails)
    name = upload(client)
    assert ask(client, name, "What is it?") == (
        "Well,", {"done": True, "troubles": ["http://127.0.0.1:9 cannot be reached"]},
    )  # fmt: skip
    assert [turn["text"] for turn in talk_of(client, name)] == ["What is it?", "Well,"]


def test_without_a_model_the_way_to_one_is_told(tmp_path):
    with TestClient(studio_app(tmp_path)[0]) as client:
        answer = client.post(f"/api/{upload(client)}/chat", json={"text": "Hello"})
        assert answer.status_code == 422 and "--model" in answer.json()["error"]
        assert client.get("/api/about").json()["chat"] == ""


def test_a_model_hears_of_functions_only_where_it_was_asked_for(tmp_path):
    for may, count in ((False, 1), (True, 2)):
        model = Scripted("Yes")
        with TestClient(studio_app(tmp_path / str(may), model, may_propose=may)[0]) as client:
            ask(client, upload(client), "Hello")
        [talk] = model.heard
        assert len(talk.messages) == count and ("<tools>" in talk.messages[0].text) == may


@pytest.fixture
def session():
    return Session.create(None, png(PHOTO), default_bench())


def say(session, role: str, text: str) -> None:
    session.apply({"do": "say", "role": role, "text": text})


def heard(session, **how) -> list[tuple[str, str, int]]:
    talk = conversation_about(session, **how)
    return [(message.role, message.text, len(message.images)) for message in talk.messages]


def test_what_was_said_of_an_earlier_picture_is_not_in_the_prompt_unless_it_is_shown_too(session):
    say(session, "user", "What is it?")
    say(session, "assistant", "red")
    session.apply(DRAWN)
    say(session, "user", "Sure?")  # a selection changes nothing that is seen
    assert heard(session) == [("user", "What is it?", 1), ("assistant", "red", 0), ("user", "Sure?", 0)]
    say(session, "assistant", "yes")
    session.apply({"do": "remove", "fill": "preview"})
    say(session, "user", "And now?")
    assert heard(session) == [("user", "And now?", 1)]
    assert [each[2] for each in heard(session, pictures=2)] == [1, 0, 0, 0, 1]
    assert heard(session, system_text="Be brief.")[0] == ("system", "Be brief.", 0)
    session.apply({"do": "undo"})
    say(session, "user", "And now?")
    assert heard(session)[-1] == ("user", "And now?", 1)


def test_an_answer_to_an_earlier_picture_does_not_stand_first(session):
    say(session, "user", "What is it?")
    session.apply({"do": "paint", "path": [[190, 130]], "width": 90})
    session.apply({"do": "remove", "fill": "preview"})
    say(session, "assistant", "red")
    say(session, "user", "And now?")
    assert heard(session) == [("user", "And now?", 1)]


def test_questions_that_got_no_answer_are_one_turn(session):
    say(session, "user", "What is it?")
    say(session, "user", "Well?")
    assert heard(session) == [("user", "What is it?\nWell?", 1)]


def test_a_large_picture_is_shown_smaller(session):
    large = Session.create(None, png(np.zeros((40, 4000, 3), np.uint8)), default_bench())
    say(large, "user", "What is it?")
    [message] = conversation_about(large).messages
    assert LONGEST // 2 <= message.images[0].source.width <= LONGEST


def test_bodies_of_the_chat_are_checked(client):
    name = upload(client)
    for body in ({}, {"text": ""}, {"text": "x" * 4001}, {"text": "a", "role": "system"}, {"text": 3}):
        assert client.post(f"/api/{name}/chat", json=body).status_code == 422
    form = client.post(f"/api/{name}/chat", content=b'{"text": "a"}', headers=BYTES)
    assert form.status_code == 415


def test_a_bug_is_raised_where_it_is_logged(client, model, monkeypatch):
    def fails(*_, **__):
        yield "Well,"
        raise ZeroDivisionError

    monkeypatch.setattr(model, "stream", fails)
    with pytest.raises(ZeroDivisionError):
        client.post(f"/api/{upload(client)}/chat", json={"text": "What is it?"})


def test_the_end_of_the_server_keeps_what_was_said(tmp_path):
    model = Scripted("one two three")
    model.wait.clear()
    with TestClient(studio_app(tmp_path, model)[0]) as client:
        name = upload(client)
        asking = Thread(target=lambda: client.post(f"/api/{name}/chat", json={"text": "Count"}))
        asking.start()
        while not model.heard:
            pass
        Thread(target=lambda: (sleep(0.2), model.wait.set())).start()
    asking.join()
    with TestClient(studio_app(tmp_path)[0]) as client:
        assert talk_of(client, name)[-1]["text"] in ("one", "one two")
