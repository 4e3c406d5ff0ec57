"""Long pictures stay in the body: what is read is what would be read with them in it."""

import base64
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.serve.conversation import check_bounds, media_urls
from llavakit.serve.errors import ApiError
from llavakit.serve.lifting import LONG, lift, lifting_reader
from llavakit.serve.parse import parse
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig
from tests.serve.live import CHAT, ScriptedWorker, asked, client
from tests.serve.test_media import encoded

CONFIG = ServeConfig(model_name="tiny")
read_chat = lifting_reader(ChatRequest, check_bounds, media_urls)
URL = "data:image/png;base64," + base64.b64encode(bytes(LONG)).decode()
SHORT = "data:image/png;base64,AAAA"


def part(url: str, kind: str = "image_url", *, bare: bool = False) -> dict:
    return {"type": kind, kind: url if bare else {"url": url}}


def seconds(work) -> float:
    """Of this thread's processor time, the least of several."""
    found = []
    for _ in range(5):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


def links(request: ChatRequest) -> list[tuple[str, str]]:
    """(where, URL), with what was lifted in its place."""
    return [
        (medium.param, medium.url if isinstance(medium.url, str) else bytes(medium.url).decode())
        for medium in media_urls(request)
    ]


PARTS = st.one_of(
    st.builds(
        part,
        st.sampled_from([URL, SHORT, "https://a.example/x.png", URL + "\\", URL + "é"]),
        bare=st.booleans(),
    ),
    st.builds(part, st.sampled_from([URL, SHORT]), st.just("video_url")),
    st.builds(lambda text: {"type": "text", "text": text}, st.sampled_from([URL, 'x "url":"' + URL, "hi"])),
    st.builds(lambda url: {"type": "text", "text": "a", "url": url}, st.sampled_from([URL, SHORT])),
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    parts=st.lists(PARTS, min_size=1, max_size=4),
    metadata=st.sampled_from([None, {"url": URL}, {"url": "x"}]),
    how=st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]),
)
def test_a_body_is_read_as_if_nothing_had_been_lifted(parts, metadata, how):
    text = json.dumps(asked(parts, metadata=metadata), **how)
    body = text.encode()
    plain, found = parse(body, CONFIG.max_json_values, ChatRequest), read_chat(body, CONFIG)
    assert links(found) == links(plain)
    told = [request.model_dump(exclude={"messages"}) for request in (plain, found)]
    assert told[0] == told[1]
    texts = [
        [piece for piece in request.messages[0].content if piece.type == "text"] for request in (plain, found)
    ]
    assert texts[0] == texts[1]


def test_what_is_read_as_json_is_small():
    body = json.dumps(asked([part(URL), part(URL, bare=True), {"type": "text", "text": "?"}])).encode()
    small, lifted = lift(body)
    assert len(small) < 500 and len(lifted) == 2
    assert all(name.encode() in small and bytes(url).decode() == URL for name, url in lifted.items())


@pytest.mark.parametrize(
    "body",
    [
        b'{"url":"' + URL.encode(),
        b'"url":"' + URL.encode() + b'"',
        b"{" + b'"url":"data:' * 200_000,
        json.dumps(asked([part(URL)])).encode() + b"}",
        json.dumps(asked([part(URL)])).encode().replace(b"AAAA", b"A\nAA", 1),
    ],
    ids=["no end", "no object", "many beginnings", "one brace more", "a line break in it"],
)
def test_what_is_no_request_is_none(body):
    with client(ScriptedWorker("yes")) as found:
        answer = found.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_a_picture_of_megabytes_costs_little_before_it_is_decoded():
    body = json.dumps(asked([part("data:image/png;base64," + "A" * 2**24)])).encode()
    assert seconds(lambda: read_chat(body, CONFIG)) < 0.5 * seconds(lambda: parse(body, 10**9, ChatRequest))


def test_a_field_given_twice_is_the_last_one():
    twice = f'{{"url":"{SHORT}","url":"{URL}"}}', f'{{"url":"{URL}","url":"{SHORT}"}}'
    for links_text, url in zip(twice, (URL, SHORT), strict=True):
        body = json.dumps(asked([part("X")])).replace('{"url": "X"}', links_text).encode()
        assert links(read_chat(body, CONFIG)) == [("messages[0].content[0].image_url.url", url)]


def test_bounds_hold_for_what_was_lifted():
    with pytest.raises(ApiError, match="images; this server takes at most 2"):
        read_chat(json.dumps(asked([part(URL)] * 3)).encode(), CONFIG.model_copy(update={"max_images": 2}))


def test_large_pictures_are_answered_and_their_bodies_let_go():
    noise = encoded("png", (300, 300))
    assert len(noise) > LONG
    url = "data:image/png;base64," + base64.b64encode(noise).decode()
    worker = ScriptedWorker("red")
    with client(worker) as found:
        answers = [found.post(CHAT, json=asked([part(url), part(url, bare=True)])).json() for _ in range(2)]
        too_large = found.post(CHAT, json=asked([part(url[:-3] + "=")]))
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["red", "red"]
    assert [medium.source for medium in worker.requests[0].sample.media] == [noise, noise]
    told = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    with client(worker) as found:
        answer = found.post("/v1/responses", json={"model": "tiny", "input": told}).json()
        told[0]["content"][0]["image_url"] = url[:-3] + "="
        broken = found.post("/v1/responses", json={"model": "tiny", "input": told}).json()
    assert answer["output"][0]["content"][0]["text"] == "red"
    assert [medium.source for medium in worker.requests[2].sample.media] == [noise]
    assert "not base64" in broken["error"]["message"]
    assert broken["error"]["param"] == "input[0].content[0].image_url"
    assert too_large.status_code == 400 and "not base64" in too_large.json()["error"]["message"]
