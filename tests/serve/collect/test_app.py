"""The HTTP of a collection: nothing without the key, pictures of its pairs only, votes are kept; the page."""

import json
from importlib.resources import files

import numpy as np
import PIL.Image
import pytest
from fastapi.testclient import TestClient

from llavakit.serve.collect.app import HEADERS, MAX_BODY, PAGE, create_collection
from tests.align.collect.pairs import session_of, side_of

KEY = {"Authorization": "Bearer secret"}


@pytest.fixture
def session(tmp_path):
    with session_of(tmp_path, count=3) as opened:
        yield opened


@pytest.fixture
def client(session):
    return TestClient(create_collection(session, "secret"), headers=KEY)


def ballot(client, **changes) -> dict:
    task = client.get("/api/task", params={"annotator": "ada"}).json()
    return {"annotator": "ada", "item": task["item"], "hallucination": "left", "seconds": 2.5} | changes


def test_a_pair_is_shown_judged_and_kept(client, session, tmp_path):
    seen = []
    while (task := client.get("/api/task?annotator=ada").json())["item"]:
        seen.append(task["item"])
        assert sorted(answer.split()[0] for answer in task["answers"]) == ["Bad", "Good"]
        [message] = task["messages"]
        assert message["parts"][0] == {"image": 0} and "number" in message["parts"][1]["text"]
        side = "left" if task["answers"][0].startswith("Good") else "right"
        kept = client.post("/api/vote", json=ballot(client, hallucination=side))
        assert kept.status_code == 200
        row = json.loads((tmp_path / "out.votes").read_text().splitlines()[-1])
        assert row["item"] == task["item"] and row["answers"][row["verdict"] - 1].startswith("Good")
        assert row["seconds"] == 2.5 and row["time"] == kept.json()["time"]
    assert len(set(seen)) == task["done"] == 3


def test_the_page_learns_nothing_of_what_is_right(client):
    task = client.get("/api/task?annotator=ada").json()
    assert set(task) == {"item", "messages", "answers", "done", "open", "earlier"}


def test_going_back_shows_what_was_said(client):
    first = ballot(client, hallucination="tie", helpfulness="right")
    client.post("/api/vote", json=first)
    back = client.get("/api/task?annotator=ada&before=").json()
    assert back["item"] == first["item"] and back["done"] == 1
    assert back["earlier"] == {"hallucination": "tie", "helpfulness": "right"}
    assert client.get("/api/task", params={"annotator": "ada", "before": back["item"]}).json()["item"] is None


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}])
@pytest.mark.parametrize(
    "path", ["/api/collection", "/api/task?annotator=ada", "/api/media/x/0", "/api/gone"]
)
def test_nothing_is_told_without_the_key(session, path, key):
    client = TestClient(create_collection(session, "secret"))
    refused = client.get(path, headers=key)
    assert refused.status_code == 401 and "open the address" in refused.json()["error"]
    assert client.post("/api/vote", json={}, headers=key).status_code == 401


def test_the_page_is_static_and_may_load_nothing_else(client):
    for path, name in PAGE.items():
        answer = client.get(path, headers={"Authorization": ""})
        assert (
            answer.status_code == 200
            and answer.content == files("llavakit.serve.collect").joinpath("page", name).read_bytes()
        )
        for header, value in HEADERS.items():
            assert answer.headers[header] == value
    html = client.get("/").text
    assert "style=" not in html and "<script>" not in html and "http" not in html.replace("https://", "http")
    code = "".join(
        files("llavakit.serve.collect").joinpath("page", name).read_text() for name in PAGE.values()
    )
    for banned in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert banned not in code


def test_pictures_of_the_pairs_and_nothing_else(client, session, tmp_path):
    item = next(iter(session.items))
    picture = client.get(f"/api/media/{item}/0")
    assert picture.content == (tmp_path / "x.png").read_bytes()
    assert picture.headers["content-type"] == "image/png"
    for path in (f"/api/media/{item}/1", "/api/media/gone/0"):
        assert client.get(path).status_code == 404
    for path in (f"/api/media/{item}/-1", f"/api/media/{item}/..%2f..%2fx.png", "/x.png", "/page/page.js"):
        assert client.get(path).status_code in (404, 405)
    (tmp_path / "x.png").unlink()
    gone = client.get(f"/api/media/{item}/0")
    assert gone.status_code == 422 and str(tmp_path) not in gone.text


def test_a_picture_that_browsers_do_not_know_becomes_a_png(client, session, tmp_path):
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)
    PIL.Image.fromarray(pixels).save(tmp_path / "x.png", "TIFF")
    picture = client.get(f"/api/media/{next(iter(session.items))}/0")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    (tmp_path / "x.png").write_text("<svg onload='alert(1)'/>")
    assert client.get(f"/api/media/{next(iter(session.items))}/0").status_code == 422


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hallucination": "up"}, "hallucination: "),
        ({"hallucination": 1}, "hallucination: "),
        ({"seconds": "1"}, "seconds: "),
        ({"verdict": 1}, "verdict: "),
        ({"item": "gone"}, "none of the collection"),
        ({"annotator": ""}, "name has 1 to 80"),
        ({"hallucination": "tie"}, "was not answered"),
    ],
)
def test_a_wrong_vote_is_one_line_and_not_kept(client, tmp_path, changes, what):
    refused = client.post("/api/vote", json=ballot(client, **changes))
    assert refused.status_code == 422 and what in refused.json()["error"]
    assert (tmp_path / "out.votes").read_text() == ""


def test_a_vote_is_json_and_small(client):
    text = json.dumps(ballot(client))
    assert client.post("/api/vote", content=text, headers={"Content-Type": "text/plain"}).status_code == 415
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/vote", content=text + " " * MAX_BODY, headers=headers).status_code == 413
    assert client.post("/api/vote", content="{", headers=headers).status_code == 422
    assert client.get("/api/task").status_code == 422


def test_one_person_needs_no_name_page(session):
    client = TestClient(create_collection(session, "secret", "ada"), headers=KEY)
    assert client.get("/api/collection").json() == {"annotator": "ada", "always_ask_both": False}
    assert side_of(session.task("ada")) in ("left", "right")
