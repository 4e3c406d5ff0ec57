"""What engines make waits in line: it comes when it is done, is taken back, fails alone, and holds up nobody."""

import secrets
import time
from threading import Event

import numpy as np
import pytest
from fastapi.testclient import TestClient

from llavakit.core.errors import RemoteError
from llavakit.studio.engines import Engine
from tests.studio.http.served import studio_app
from tests.studio.http.test_app import DRAWN, do, upload


class Slow:
    """An editor that makes a step whenever it is let. Words that begin with "bad" and "bug" fail."""

    def __init__(self):
        self.step, self.begun = Event(), 0

    def edit(self, rgb, prompt, seed, watch):
        if prompt.startswith("bad"):
            raise RemoteError("nobody answers")
        if prompt.startswith("bug"):
            raise ZeroDivisionError(prompt)
        self.begun += 1
        for number in range(2):
            assert self.step.wait(20)
            watch((number + 1) / 2)
        return np.full_like(rgb, 200)


@pytest.fixture
def client(tmp_path):
    app, rooms = studio_app(tmp_path / "pictures")
    with TestClient(app) as opened:
        opened.slow = Slow()
        rooms.bench.table["slow"] = Engine("edit", "slow", lambda: opened.slow)
        rooms.bench.chosen["edit"] = "slow"
        yield opened
        opened.slow.step.set()


def want(client, name, prompt, status=202, **more):
    id = secrets.token_hex(8)
    asked = {"id": id, "command": {"do": "edit", "prompt": prompt, **more}}
    answer = client.post(f"/api/{name}/jobs", json=asked)
    assert answer.status_code == status, answer.text
    return id, answer.json()


def until(client, name, wanted):
    for _ in range(400):
        news = client.get(f"/api/{name}/rev").json()
        if wanted(news):
            return news
        time.sleep(0.02)
    raise AssertionError(news)


def test_the_picture_is_edited_while_something_is_made_and_then_it_comes(client):
    name = upload(client)
    id, news = want(client, name, "make it winter", count=2)
    assert [job["words"] for job in news["jobs"]] == ["make it winter"]
    until(client, name, lambda news: news["jobs"][0]["state"] == "under way")
    drawn = do(client, name, DRAWN)["state"]  # nobody waits
    assert drawn["jobs"][0]["id"] == id
    client.slow.step.set()
    until(client, name, lambda news: not news["jobs"])
    state = client.get(f"/api/{name}").json()
    assert [row["seed"] for row in state["variants"]] == [0, 1] and client.slow.begun == 2
    assert state["layers"][-1]["name"] == "make it winter" and state["selection"] == drawn["selection"]
    undone = do(client, name, {"do": "undo"})["state"]
    assert len(undone["layers"]) == 1 and undone["selection"] == drawn["selection"]


def test_jobs_are_taken_back_where_they_wait_and_where_they_are_made(client):
    name = upload(client)
    rev = client.get(f"/api/{name}/rev").json()["rev"]
    first, _ = want(client, name, "one")
    second, news = want(client, name, "two")
    assert [job["words"] for job in news["jobs"]] == ["one", "two"]
    until(client, name, lambda news: news["jobs"][0]["state"] == "under way")
    left = client.delete(f"/api/{name}/jobs/{second}").json()["jobs"]
    assert [job["id"] for job in left] == [first]
    client.delete(f"/api/{name}/jobs/{first}")
    client.slow.step.set()
    assert until(client, name, lambda news: not news["jobs"])["rev"] == rev and client.slow.begun == 1
    assert client.delete(f"/api/{name}/jobs/{first}").status_code == 200  # gone already


def test_a_job_that_fails_says_so_until_it_is_put_away_and_the_next_is_made(client, caplog):
    name = upload(client)
    bad, _ = want(client, name, "bad")
    want(client, name, "bug of somebody")
    want(client, name, "good")
    client.slow.step.set()
    news = until(client, name, lambda news: len(news["jobs"]) == 2 and news["rev"] == 2)
    assert [job["trouble"] for job in news["jobs"]] == [
        "nobody answers", "the engine failed; the server's log says where",
    ]  # fmt: skip
    assert "ZeroDivisionError" in caplog.text and "bug of somebody" not in caplog.text
    assert len(client.delete(f"/api/{name}/jobs/{bad}").json()["jobs"]) == 1


def test_the_same_job_is_made_once_and_the_line_has_an_end(client):
    name = upload(client)
    id, _ = want(client, name, "one")
    again = {"id": id, "command": {"do": "edit", "prompt": "one"}}
    assert len(client.post(f"/api/{name}/jobs", json=again).json()["jobs"]) == 1
    for _ in range(15):
        want(client, name, "more")
    assert "16 things are waiting" in want(client, name, "one too many", 422)[1]["error"]
    bad = {"id": "12345678", "command": {"do": "undo"}}
    assert "wait in line" in client.post(f"/api/{name}/jobs", json=bad).json()["error"]
    client.delete(f"/api/{name}")
    client.slow.step.set()


def test_the_end_of_the_server_takes_jobs_back(tmp_path):
    app, rooms = studio_app(tmp_path / "pictures")
    slow = Slow()
    rooms.bench.table["slow"] = Engine("edit", "slow", lambda: slow)
    rooms.bench.chosen["edit"] = "slow"
    with TestClient(app) as client:
        name = upload(client)
        want(client, name, "one")
        until(client, name, lambda news: news["jobs"][0]["state"] == "under way")
        session = rooms.get(name).session
        for job in rooms.line.of(session):
            job.stop.set()
        slow.step.set()
    assert session.rev == 1
