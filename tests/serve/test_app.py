"""The routes: answers in both shapes, errors in one, keys, bounds, metrics."""

import json

import pytest
from fastapi.testclient import TestClient

from llavakit.chat import Chat
from llavakit.core.errors import DataError
from llavakit.engine.sampler import Sampling
from llavakit.serve.app import create_app
from llavakit.serve.bridge import Bridge
from llavakit.text.conversation import Conversation, assistant, system, user
from llavakit.text.templates import template
from tests import tiny
from tests.serve.live import (
    CHAT,
    CONTEXT,
    ScriptedWorker,
    asked,
    chunks,
    client,
    image_part,
    post,
    service,
    text_of,
)
from tests.serve.test_media import data_url
from tests.vision.clips import write_clip

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def real():
    with client() as found:
        yield found


@pytest.fixture(scope="module")
def bot():
    made = service()
    yield Chat(made.engine, made.encoder)
    made.close()


def test_the_answer_is_that_of_every_other_door(real, bot, tmp_path):
    path = tiny.picture(tmp_path / "a.png")
    content = [image_part(path), {"type": "text", "text": "What color?"}]
    how = Sampling(max_tokens=12)
    assert text_of(post(real, content=content, max_tokens=12)) == bot.ask("What color?", [path], sampling=how)
    warm = Sampling(max_tokens=12, temperature=1.5, seed=3, top_p=0.9)
    fields = {"max_tokens": 12, "temperature": 1.5, "seed": 3, "top_p": 0.9}
    assert text_of(post(real, content=content, **fields)) == bot.ask("What color?", [path], sampling=warm)


def test_several_pictures_and_turns(real, bot, tmp_path):
    a, b = (tiny.picture(tmp_path / f"{n}.png", n) for n in (1, 2))
    messages = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": [image_part(a), image_part(b), {"type": "text", "text": "Both?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "Sure?"},
    ]
    talk = Conversation((system("Short."), user("Both?", [a, b]), assistant("yes"), user("Sure?")))
    expected = bot.batch([talk], sampling=Sampling(max_tokens=9))[0]
    assert text_of(post(real, messages=messages, max_tokens=9)) == expected


def test_a_video_is_answered_as_anywhere_else(real, bot, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    content = [
        {"type": "video_url", "video_url": {"url": data_url(clip.read_bytes(), "video/mp4")}},
        {"type": "text", "text": "What happens?"},
    ]
    expected = bot.ask("What happens?", videos=[clip], sampling=Sampling(max_tokens=9))
    assert text_of(post(real, content=content, max_tokens=9)) == expected


def test_a_video_of_very_many_frames_is_refused_before_it_is_decoded(tmp_path):
    url = data_url(write_clip(tmp_path / "clip.mp4", 30).read_bytes(), "video/mp4")
    body = asked([{"type": "video_url", "video_url": {"url": url}}])
    for limit, status in ((29, 400), (30, 200)):
        worker = ScriptedWorker("a")
        with client(worker, max_video_frames=limit) as found:
            answer = found.post(CHAT, json=body)
            assert (answer.status_code, len(worker.requests)) == (status, int(status == 200))
            assert status == 200 or "30 frames" in answer.json()["error"]["message"]


def test_the_shape_of_an_answer(real, tmp_path):
    content = [image_part(tiny.picture(tmp_path / "a.png")), {"type": "text", "text": "?"}]
    answer = post(real, content=content, max_tokens=3)
    assert (
        answer["object"] == "chat.completion"
        and answer["model"] == "tiny"
        and answer["id"][:9] == "chatcmpl-"
    )
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 3 and usage["prompt_tokens_details"] == {"image_tokens": 4}
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3


def test_a_whole_answer_wakes_the_loop_for_its_first_token_and_its_end(monkeypatch):
    told, call = [], Bridge.call
    monkeypatch.setattr(Bridge, "call", lambda self, *what: (told.append(what), call(self, *what)))
    with client(ScriptedWorker("one two three four five")) as found:
        assert text_of(post(found)) == "one two three four five"
        assert len(told) == 2
        assert text_of(post(found, logprobs=True)) == "one two three four five"
        assert len(told) > 10


@pytest.mark.parametrize("n", [1, 3])
def test_streamed_and_whole_are_one_answer(real, n):
    fields = {"max_tokens": 20, "temperature": 1.0, "seed": 5, "n": n}
    whole = post(real, **fields)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = real.post(CHAT, json=asked(**fields, **options))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *events, last = chunks(streamed.text)
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(event["usage"] is None and event["object"] == "chat.completion.chunk" for event in events)
    assert len({event["id"] for event in events}) == 1
    for choice in range(n):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(each["delta"].get("content", "") for each in mine) == text_of(whole, choice)
        finishes = [each["finish_reason"] for each in mine]
        assert finishes[-1] == whole["choices"][choice]["finish_reason"] and set(finishes[:-1]) == {None}
    if n > 1:
        assert len({text_of(whole, choice) for choice in range(n)}) == n


def test_stop_strings_end_the_answer_and_are_not_in_it(real):
    free = text_of(post(real, max_tokens=40))
    stop = free[len(free) // 2 : len(free) // 2 + 3]
    answer = post(real, max_tokens=40, stop=["never said", stop])
    assert text_of(answer) == free[: free.find(stop)].strip()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 40


def test_a_schema_that_nobody_can_follow_is_the_clients_error(real, caplog):
    properties = {f"secret{number}": {"type": "string"} for number in range(500)}
    shape = {"name": "a", "schema": {"type": "object", "properties": properties}}
    fields = {"response_format": {"type": "json_schema", "json_schema": shape}}
    answer = real.post(CHAT, json=asked(**fields))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "response_format")
    assert error["message"].startswith("json_schema: ") and "secret" not in answer.text + caplog.text
    assert "data: [DONE]" not in real.post(CHAT, json=asked(stream=True, **fields)).text
    assert text_of(post(real, max_tokens=3))


def test_logprobs_are_those_of_the_tokens(real):
    answer = post(real, max_tokens=5, logprobs=True, top_logprobs=3)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 5
    for token in content:
        assert len(token["top_logprobs"]) == 3 and token["logprob"] <= 0
        assert token["top_logprobs"][0]["token"] == token["token"], "greedy says the likeliest"
        assert token["bytes"] is None or bytes(token["bytes"]).decode() == token["token"]
    streamed = chunks(
        real.post(CHAT, json=asked(max_tokens=5, logprobs=True, top_logprobs=3, stream=True)).text
    )
    told = [
        event["choices"][0]["logprobs"]["content"][0]
        for event in streamed
        if event["choices"][0].get("logprobs")
    ]
    assert [token["token"] for token in told] == [token["token"] for token in content]


def test_json_formats_are_kept(real):
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
        "required": ["color", "sure"],
        "additionalProperties": False,
    }
    shaped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    said = json.loads(text_of(post(real, response_format=shaped, max_tokens=60, temperature=1, seed=1)))
    assert said["color"] in ("red", "blue") and isinstance(said["sure"], bool) and len(said) == 2


def test_a_forced_call_is_made_by_a_model_that_never_heard_of_tools(real):
    function = {
        "name": "look",
        "parameters": {
            "type": "object", "properties": {"side": {"enum": ["left", "right"]}}, "required": ["side"],
            "additionalProperties": False,
        },
    }  # fmt: skip
    tools = [{"type": "function", "function": function}]
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        answer = post(real, tools=tools, tool_choice=choice, max_tokens=60, temperature=1, seed=2)
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "look" and call["type"] == "function"
        assert json.loads(call["function"]["arguments"])["side"] in ("left", "right")
        assert answer["choices"][0]["finish_reason"] == "tool_calls" and text_of(answer) is None


def test_free_calls_are_read_out_of_the_answer():
    with client(ScriptedWorker(f"Let me see.\n{CALL}\n{CALL}\n")) as found:
        answer = post(found, tools=[TOOL], n=2)
        for choice in answer["choices"]:
            assert choice["message"]["content"] == "Let me see." and choice["finish_reason"] == "tool_calls"
            assert [c["function"] for c in choice["message"]["tool_calls"]] == [
                {"name": "look", "arguments": '{"x": 1}'}
            ] * 2
        ids = [call["id"] for choice in answer["choices"] for call in choice["message"]["tool_calls"]]
        assert len(set(ids)) == 4
        assert text_of(post(found)) == f"Let me see.\n{CALL}\n{CALL}", "nobody offered a tool"
        one = post(found, tools=[TOOL], parallel_tool_calls=False)
        assert len(one["choices"][0]["message"]["tool_calls"]) == 1

        streamed = chunks(found.post(CHAT, json=asked(tools=[TOOL], stream=True)).text)
        deltas = [event["choices"][0]["delta"] for event in streamed]
        assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "look"), (1, "look")]
        assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_half_a_letter_in_a_call_is_no_error():
    call = r'<tool_call>{"name": "look", "arguments": {"x": "\ud83d"}}</tool_call>'
    with client(ScriptedWorker(call)) as found:
        (made,) = post(found, tools=[TOOL])["choices"][0]["message"]["tool_calls"]
        assert json.loads(made["function"]["arguments"]) == {"x": "\ud83d"}
        assert "[DONE]" in found.post(CHAT, json=asked(tools=[TOOL], stream=True)).text


def test_blanks_around_an_answer_are_dropped_in_both_shapes():
    with client(ScriptedWorker("  \n a \n b \n\n ")) as found:
        assert text_of(post(found)) == "a \n b"
        streamed = chunks(found.post(CHAT, json=asked(stream=True)).text)
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in streamed) == "a \n b"


def test_an_empty_answer_is_an_answer():
    with client(ScriptedWorker("")) as found:
        assert text_of(post(found)) == ""


def test_a_forced_call_cut_short_is_text():
    worker = ScriptedWorker('{"name": "look", "argu', finish="length")
    with client(worker) as found:
        answer = post(found, tools=[TOOL], tool_choice="required")
        assert (
            text_of(answer) == '{"name": "look", "argu' and answer["choices"][0]["finish_reason"] == "length"
        )
        assert json.loads(worker.requests[0].sampling.json_schema)["properties"]["name"] == {"const": "look"}


def test_a_broken_engine_is_a_500_and_the_server_goes_on():
    worker = ScriptedWorker("ab", finish="failed")
    with client(worker) as found:
        answer = found.post(CHAT, json=asked())
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
        streamed = found.post(CHAT, json=asked(stream=True))
        last = streamed.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"
        worker.finish = "stop"
        assert text_of(post(found)) == "ab"


def test_a_bug_is_a_500_that_tells_nothing(monkeypatch):
    worker = ScriptedWorker("ab")
    with client(worker) as found:
        monkeypatch.setattr(worker, "submit", lambda *_: 1 / 0)
        answer = found.post(CHAT, json=asked())
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "a bug of this server")
        monkeypatch.undo()
        assert text_of(post(found)) == "ab"


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"model": "gpt"}, "model", "not served here"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "there is no token 999999"),
        ({"content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAAGZ0eXA="}}]},
         "messages[0].content[0].video_url.url", "video"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
         "response_format", "json_schema"),
        ({"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
         "messages[0].content[0].image_url.url", "no --media-root"),
        ({"content": [{"type": "image_url", "image_url": {"url": "http://1.1.1.1/x.png"}}]},
         "messages[0].content[0].image_url.url", "use https"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_a_4xx_that_says_why(real, fields, param, said):
    answer = real.post(CHAT, json=asked(**fields))
    error = answer.json()["error"]
    assert 400 <= answer.status_code < 500 and answer.headers["x-request-id"]
    assert error["param"] == param and said in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_broken_picture_is_a_400(real, tmp_path):
    path = tiny.picture(tmp_path / "a.png", size=(200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    answer = real.post(CHAT, json=asked([image_part(path)]))
    assert answer.status_code == 400 and "broken image" in answer.json()["error"]["message"]


def test_bodies_are_bounded_and_json():
    with client(ScriptedWorker("a"), max_body_bytes=500) as found:
        assert found.post(CHAT, json=asked("x" * 600)).status_code == 413
        spread = found.post(
            CHAT, content=iter([b"x" * 300] * 3), headers={"Content-Type": "application/json"}
        )
        assert spread.status_code == 413 and "larger than 500 bytes" in spread.json()["error"]["message"]
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = found.post(CHAT, content=json.dumps(asked()), headers={"Content-Type": kind})
            assert answer.status_code == 415
        assert found.post(CHAT, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
        assert text_of(post(found)) == "a"


def test_keys_are_asked_for_and_shown_to_nobody(caplog):
    keys = ("first-key-123", "second-key-456")
    with client(ScriptedWorker("a"), api_keys=keys) as found, caplog.at_level("INFO"):
        for headers in (
            {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic first-key-123"},
            {"Authorization": "Bearer first-key-12"}, {"Authorization": "first-key-123"},
            {"Authorization": b"Bearer \xff\xfe"},
        ):  # fmt: skip
            for answer in (
                found.post(CHAT, json=asked(), headers=headers),
                found.get("/v1/models", headers=headers),
            ):
                assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
                assert answer.headers["www-authenticate"] == "Bearer"
        for key in keys:
            answer = found.post(CHAT, json=asked(), headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
            assert found.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
        assert found.get("/health").status_code == 200
        assert found.get("/metrics").status_code == 401, "it tells what others do"
        page = found.get("/metrics", headers={"Authorization": f"Bearer {keys[0]}"}).text
        assert "llavakit_http_requests_total" in page
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert "request" in logged
    for key in keys:
        assert key not in logged and key not in page
        assert key not in repr(service(ScriptedWorker(), api_keys=keys).settings)


def test_the_model_is_listed(real):
    listed = real.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["tiny"] and listed["data"][0][
        "max_model_len"
    ] == CONTEXT
    assert real.get("/v1/models/tiny").json() == listed["data"][0]
    assert real.get("/v1/models/other").status_code == 404


def test_other_paths_are_errors_of_the_same_shape(real):
    for answer in (real.get("/nowhere"), real.get(CHAT), real.post("/health"), real.get("/docs")):
        assert answer.status_code in (404, 405) and answer.json()["error"]["message"]


def test_metrics_count_what_happened():
    with client() as found:
        post(found, max_tokens=4)
        found.post(CHAT, json=asked(model="gpt"))
        found.get("/one/of/many/paths")
        page = found.get("/metrics").text
        assert found.get("/health").json() == {"status": "ok", "model": "tiny"}
    for line in (
        f'llavakit_http_requests_total{{route="{CHAT}",status="200"}} 1.0',
        f'llavakit_http_requests_total{{route="{CHAT}",status="404"}} 1.0',
        'llavakit_http_requests_total{route="other",status="404"} 1.0',
        "llavakit_engine_answer_tokens_total 4.0",
        "llavakit_time_to_first_token_seconds_count 1.0",
        "llavakit_requests_in_flight 0.0",
    ):
        assert line in page, line


@pytest.mark.parametrize("content", [False, True])
def test_the_log_has_what_people_said_only_if_told_to(caplog, content):
    with client(ScriptedWorker("a secret answer"), log_content=content) as found, caplog.at_level("INFO"):
        post(found, content="a secret question")
        found.post(CHAT, json=asked("a secret question", model="a secret model"))
        found.post(CHAT, json=asked("a secret question", secret=1))
    fields = [record.fields for record in caplog.records if record.name == "llavakit.serve"]
    assert [line["status"] for line in fields] == [200, 404, 400]
    assert fields[0]["prompt_tokens"] > 0 and fields[0]["finish"] == ["stop"]
    assert ("secret" in str(fields)) is content


def test_the_service_is_closed_with_the_application():
    worker = ScriptedWorker("a")
    with client(worker):
        pass
    assert worker.closed == [True]


def test_what_the_template_says_is_what_the_client_reads():
    made = service()
    made.encoder.template = template("llama_2")  # which tells its turns by their order
    with pytest.raises(DataError) as error:
        Chat(made.engine, made.encoder).batch([Conversation((user("a"), assistant("b")))])
    sent = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with TestClient(create_app(made)) as found:
        answer = found.post(CHAT, json=asked(messages=sent))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, str(error.value))


def test_web_pages_of_named_origins_may_ask():
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asks |= {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
    with client(ScriptedWorker("a"), allow_origins=("https://a.example",), api_keys=("k",)) as found:
        allowed = found.options(CHAT, headers=asks)
        assert (
            allowed.status_code == 200 and "x-stainless-os" in allowed.headers["access-control-allow-headers"]
        )
        assert found.options(CHAT, headers=asks | {"Origin": "https://b.example"}).status_code == 400
        for key, status in (("k", 200), ("wrong", 401)):
            headers = {"Origin": "https://a.example", "Authorization": f"Bearer {key}"}
            answer = found.post(CHAT, json=asked(), headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
    with client(ScriptedWorker("a")) as found:
        assert "access-control-allow-origin" not in found.options(CHAT, headers=asks).headers


def test_pages_answer_head(real):
    for path in ("/health", "/metrics", "/v1/models", "/v1/models/tiny"):
        assert real.head(path).status_code == real.get(path).status_code == 200
    assert real.head(CHAT).status_code == 405 and real.head("/nowhere").status_code == 404
