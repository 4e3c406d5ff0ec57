"""A real server on loopback: clients that leave, that are too many, too slow, or OpenAI's own."""

import base64
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from llavakit.cli import main
from llavakit.engine.decoder import describe_kernels, fuse
from llavakit.model import checkpoint as checkpoints
from llavakit.serve.fetch import Fetcher
from llavakit.serve.listener import listen
from llavakit.serve.media import MediaReader
from tests import tiny
from tests.serve import hostile
from tests.serve.live import (
    CHAT,
    CONTEXT,
    ScriptedWorker,
    asked,
    chunks,
    image_part,
    process,
    served,
    wait_until,
)
from tests.serve.test_media import encoded
from tests.serve.web import ANY_PORT

LONG = "word " * 50


@pytest.fixture(scope="module")
def address():
    with served() as (url, _):
        yield url


@pytest.fixture(scope="module")
def theirs(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, content="hi", **how):
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], temperature=0, **how
    )


def test_openais_client_asks_and_streams(theirs, tmp_path):
    content = [image_part(tiny.picture(tmp_path / "a.png")), {"type": "text", "text": "What color?"}]
    whole = ask(theirs, content, max_tokens=15, logprobs=True, top_logprobs=2)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 15
    assert len(whole.choices[0].logprobs.content) == 15
    stream = ask(theirs, content, max_tokens=15, stream=True, stream_options={"include_usage": True})
    events = list(stream)
    said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert said == whole.choices[0].message.content
    assert events[-1].usage == whole.usage
    assert [model.id for model in theirs.models.list()] == ["tiny"]
    assert ask(theirs, max_tokens=2, n=2, extra_body={"top_k": 5, "min_p": 0.1}).choices[1].index == 1


def test_openais_client_parses_what_has_a_schema(theirs):
    from pydantic import BaseModel

    class Seen(BaseModel):
        red: bool

    answer = theirs.chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "?"}], response_format=Seen, max_tokens=30
    )
    assert isinstance(answer.choices[0].message.parsed, Seen)


def test_openais_client_knows_our_errors(theirs, address):
    with pytest.raises(openai.NotFoundError, match="not served here"):
        theirs.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="less than or equal to 2") as error:
        ask(theirs, presence_penalty=3)
    assert error.value.param == "presence_penalty"


def test_openais_client_goes_on_with_calls():
    call = '<tool_call>{"name": "look", "arguments": {"x": 1}}</tool_call>'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with served(ScriptedWorker(call, "It is red.")) as (url, service):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        talk = [{"role": "user", "content": "What is it?"}]
        first = client.chat.completions.create(model="tiny", messages=talk, tools=tools).choices[0].message
        talk += [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "red"}]
        second = client.chat.completions.create(model="tiny", messages=talk, tools=tools).choices[0].message
        assert (second.content, second.tool_calls) == ("It is red.", None)
        prompt = service.encoder.tokenizer.decode(list(service.worker.requests[1].sample.ids))
        assert "<tool_response>\nred\n</tool_response>" in prompt


def post(url: str, body: dict, key: str | None = None, **how) -> httpx2.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.post(url + CHAT, json=body, headers=headers, timeout=30, **how)


def in_flight(url: str) -> float:
    page = httpx2.get(f"{url}/metrics").text
    return float(page.split("\nllavakit_requests_in_flight ")[1].split("\n")[0])


def send(url: str, data: bytes) -> socket.socket:
    """A connection with `data` on its way: what no client library would send."""
    host, port = url.removeprefix("http://").split(":")
    wire = socket.create_connection((host, int(port)), timeout=10)
    wire.sendall(data)
    return wire


def head(length: int, host: str = "localhost") -> bytes:
    """A chat request but for its body."""
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_an_upload_that_breaks_off_is_a_client_that_left(caplog):
    with served(ScriptedWorker("a")) as (url, _), caplog.at_level("INFO"):
        send(url, head(1000) + b'{"model": ').close()
        counted = f'llavakit_http_requests_total{{route="{CHAT}",status="499"}} 1.0'
        wait_until(lambda: counted in httpx2.get(f"{url}/metrics").text)
    assert not any(record.exc_info for record in caplog.records)


def test_no_answer_sends_a_client_to_the_host_it_named():
    with served(ScriptedWorker("a"), host_names=("evil.example",)) as (url, _):
        answer = httpx2.get(f"{url}/health/", headers={"Host": "evil.example"})
        assert answer.status_code == 404 and "location" not in answer.headers
        assert "evil.example" not in answer.text


def test_on_this_machine_only_its_own_names_are_answered(address):
    """Else a web page that gives its name this address could ask, and read (DNS rebinding)."""

    def status(url, host, key=None):
        headers = {"Host": host} | ({"Authorization": f"Bearer {key}"} if key else {})
        return httpx2.get(f"{url}/v1/models", headers=headers).status_code

    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:80", "[::1]:8000"):
        assert status(address, host) == 200, host
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
    ):
        assert status(address, host) == 403, host
    with served(ScriptedWorker("a"), host_names=("models.test",)) as (url, _):
        assert [status(url, host) for host in ("models.test", "evil.example")] == [200, 403]
    with served(ScriptedWorker("a"), api_keys=("key",)) as (url, _):
        assert status(url, "evil.example", "key") == 200, "a page of strangers does not know the key"


def test_what_is_remembered_of_one_key_is_not_found_with_another(tmp_path):
    """How long an answer takes, and what /metrics counts, would tell what somebody else had asked."""
    body = asked([image_part(tiny.picture(tmp_path / "a.png")), {"type": "text", "text": LONG}], max_tokens=2)
    with served(api_keys=("one", "two")) as (url, service):

        def work(key: str) -> tuple[int, int]:
            before = service.engine.stats()
            assert post(url, body, key).status_code == 200
            after = service.engine.stats()
            return after.tower_tiles - before.tower_tiles, after.copied_tokens - before.copied_tokens

        assert work("one") == work("two") == (1, 0)
        tiles, copied = work("one")
        assert tiles == 0 and copied > 0
        assert work("two") == (0, copied)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(stream):
    worker = ScriptedWorker(LONG)
    worker.gate.clear()
    with served(worker) as (url, _):
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(url + CHAT, json=asked(stream=stream), timeout=httpx2.Timeout(5, read=0.2))
        wait_until(lambda: worker.cancelled == [0])
        wait_until(lambda: in_flight(url) == 0)
        counted = f'llavakit_http_requests_total{{route="{CHAT}",status="499"}} 1.0'
        wait_until(lambda: counted in httpx2.get(f"{url}/metrics").text)
        assert post(url, asked()).status_code == 200


def test_a_client_that_leaves_stops_the_engine():
    with served() as (url, service):
        body = asked("Tell me a long story.", stream=True, max_tokens=1500, temperature=1.5, seed=1, n=8)
        with httpx2.stream("POST", url + CHAT, json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            while '"content":""' in (line := next(lines)) or not line:
                pass
            assert service.engine.stats().running > 0
        wait_until(lambda: service.engine.stats().running == service.engine.stats().waiting == 0, 2)
        said = service.engine.stats().answer_tokens
        assert said < 8 * 1500
        time.sleep(0.1)
        assert service.engine.stats().answer_tokens == said


def test_a_client_that_leaves_while_its_picture_is_fetched_asks_nothing_of_the_engine():
    worker = ScriptedWorker("a")
    with socket.create_server(("127.0.0.1", 0)) as silent, served(worker, allow_http=True) as (url, service):
        fetcher = Fetcher(1, 0, ("http",), allowed=lambda address: True, ports=ANY_PORT)
        service.media = MediaReader(service.settings, fetcher)
        picture = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"}}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(url + CHAT, json=asked([picture]), timeout=httpx2.Timeout(5, read=0.2))
        began = time.monotonic()
        assert httpx2.get(f"{url}/health").status_code == 200
        assert time.monotonic() - began < 0.5, "somebody else's slow picture is nobody's business"
        wait_until(lambda: in_flight(url) == 0)
        assert worker.requests == []


def test_a_slow_web_server_holds_up_nobody_else(tmp_path):
    inline = [image_part(tiny.picture(tmp_path / "a.png"))]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        served(ScriptedWorker("a"), allow_http=True, fetch_threads=1) as (url, service),
        ThreadPoolExecutor(3) as pool,
    ):
        fetcher = Fetcher(1, 0, ("http",), allowed=lambda address: True, ports=ANY_PORT)
        service.media = MediaReader(service.settings, fetcher)
        picture = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"}}
        slow = [pool.submit(post, url, asked([picture])) for _ in range(3)]
        wait_until(lambda: in_flight(url) == 3)
        assert post(url, asked(inline)).status_code == 200
        assert not all(each.done() for each in slow)
        for each in slow:
            assert "not complete within 1 s" in each.result().json()["error"]["message"]


def test_too_many_are_told_to_come_back():
    worker = ScriptedWorker("a")
    worker.gate.clear()
    with served(worker, max_requests=2) as (url, _), ThreadPoolExecutor(2) as pool:
        running = [pool.submit(post, url, asked()) for _ in range(2)]
        wait_until(lambda: len(worker.requests) == 2)
        refused = post(url, asked())
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        worker.gate.set()
        assert [each.result().status_code for each in running] == [200, 200]
        assert post(url, asked()).status_code == 200


def test_what_takes_too_long_is_ended():
    worker = ScriptedWorker("a")
    worker.gate.clear()
    with served(worker, request_seconds=0.3) as (url, _):
        whole = post(url, asked())
        assert whole.status_code == 504 and whole.json()["error"]["type"] == "timeout_error"
        wait_until(lambda: worker.cancelled == [0])
        worker.gate.clear()
        streamed = post(url, asked(stream=True))
        assert json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == "timeout"
        wait_until(lambda: worker.cancelled == [0, 1])
        assert post(url, asked()).status_code == 200


def test_a_body_that_drips_is_cut_off(monkeypatch):
    monkeypatch.setattr("llavakit.serve.gate.GRACE", 0.1)

    def drip():
        for _ in range(100):
            yield b" "
            time.sleep(0.05)

    with served(ScriptedWorker("a"), request_seconds=0.2) as (url, _):
        began = time.monotonic()
        headers = {"Content-Type": "application/json"}
        answer = httpx2.post(url + CHAT, content=drip(), headers=headers, timeout=30)
        assert answer.status_code == 408
        assert time.monotonic() - began < 6
        wait_until(lambda: in_flight(url) == 0)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr("llavakit.serve.gate.GRACE", 0.1)
    with served(ScriptedWorker("word " * 20_000), request_seconds=1) as (url, _):
        body = json.dumps(asked(stream=True)).encode()
        with send(url, b"") as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.sendall(head(len(body)) + body)
            wait_until(lambda: in_flight(url) == 1)
            wait_until(lambda: in_flight(url) == 0, 10)


def test_hostile_requests_are_4xx_and_the_server_goes_on(address):
    assert len(hostile.bodies("tiny")) + len(hostile.faults("tiny")) + len(hostile.wires()) > 77
    before = post(address, asked(max_tokens=8)).json()["choices"]
    headers = {"Content-Type": "application/json"}
    for name, body in hostile.bodies("tiny").items():
        answer = httpx2.post(address + CHAT, content=body, headers=headers, timeout=60)
        assert 400 <= answer.status_code < 500, (name, answer.text[:500])
        error = answer.json()["error"]
        assert error["message"] and len(answer.text) < 1000, name
    assert post(address, asked(max_tokens=8)).json()["choices"] == before


def test_requests_at_the_edge_are_no_fault_of_the_server(address):
    before = post(address, asked(max_tokens=8)).json()["choices"]
    headers = {"Content-Type": "application/json"}
    for name, body in hostile.faults("tiny").items():
        answer = httpx2.post(address + CHAT, content=body, headers=headers, timeout=60)
        assert answer.status_code < 500, (name, answer.text[:500])
    assert post(address, asked(max_tokens=8)).json()["choices"] == before


def test_connections_that_say_nothing_more_stop_nobody(address):
    held = [send(address, data) for data in hostile.wires().values()]
    assert post(address, asked(max_tokens=2)).status_code == 200
    for wire in held:
        wire.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = tiny.checkpoint()
    made.model.language.config.max_position_embeddings = CONTEXT
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoints.save(made, folder)
    return folder


def long_answer(url: str) -> dict:
    """A request whose answer is as long as it may be."""
    for seed in range(20):
        body = asked(max_tokens=800, temperature=1.5, seed=seed)
        if post(url, body).json()["usage"]["completion_tokens"] == 800:
            return body | {"stream": True}
    raise AssertionError("the model always stops early")


def test_a_first_signal_lets_answers_end_and_no_new_ones_begin(model):
    with process(model) as (url, running):
        assert running.stdout.readline() == (
            "the decoder runs on torch kernels; native ones need bf16 weights on the CPU, and these are "
            "torch.float32 on cpu\n"
        )
        body = long_answer(url)
        whole = post(url, body | {"stream": False}).json()["choices"][0]["message"]["content"]
        with httpx2.stream("POST", url + CHAT, json=body, timeout=60) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            running.send_signal(signal.SIGTERM)
            wait_until(lambda: _refuses(url))
            text += "".join(pieces)
        said = [event["choices"][0] for event in chunks(text)]
        assert "".join(each["delta"].get("content", "") for each in said) == whole
        assert running.wait(60) == 0
        log = [json.loads(line) for line in running.stderr.read().splitlines()]
        assert log[-1]["event"] == "request" and log[-1]["completion_tokens"] == 800


def test_options_of_the_command_and_a_second_signal_that_ends_it_at_once(model, tmp_path):
    picture = tiny.picture(tmp_path / "a.png")
    options = ("--media-root", str(tmp_path), "--model-name", "other", "--weights", "bf16", "max_tokens=1800")
    with process(model, *options, LLAVAKIT_API_KEY="one two") as (url, running):
        here = describe_kernels(fuse(tiny.checkpoint().model, "bf16", kernels="auto"))
        assert running.stdout.readline() == f"{here}\n"
        body = asked(
            [{"type": "image_url", "image_url": {"url": f"file://{picture}"}}], model="other", max_tokens=3
        )
        assert post(url, body).status_code == 401
        answers = [post(url, body, key) for key in ("one", "two")]
        answers.append(post(url, asked([image_part(picture)], model="other", max_tokens=3), "one"))
        assert all(each.json()["choices"] == answers[0].json()["choices"] for each in answers)
        assert post(url, body | {"max_tokens": 1801}, "one").status_code == 400

        # More than fits between the server and a client that does not read: it cannot end by itself.
        slow = asked(
            model="other", temperature=1.5, seed=1, n=16, max_tokens=1800, stream=True,
            logprobs=True, top_logprobs=20,
        )  # fmt: skip
        headers = {"Authorization": "Bearer one"}
        with httpx2.stream("POST", url + CHAT, json=slow, headers=headers, timeout=60) as answer:
            next(answer.iter_text())
            running.send_signal(signal.SIGINT)
            wait_until(lambda: _refuses(url))
            began = time.monotonic()
            running.send_signal(signal.SIGINT)
            assert running.wait(5) == 130
            assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["max_imges=3"], "did you mean 'max_images'"),
        (["max_images=x"], "max_images='x'"),
        (["--api-key", ""], "api_keys"),
        (["--media-root", "/nowhere"], "not a folder"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
    ],
)
def test_a_wrong_start_is_one_clear_line(model, options, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["llavakit", "serve", "--model", str(model), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and said in errors and errors.count("\n") == 1


def test_without_the_extra_the_command_says_what_to_install(model):
    code = f"""
import sys
sys.modules["fastapi"] = None
sys.argv = ["llavakit", "serve", "--model", {str(model)!r}]
from llavakit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = "error: llavakit serve needs fastapi: pip install 'llavakit[serve]'\n"
    assert (done.returncode, done.stderr) == (2, said)


def _refuses(url: str) -> bool:
    try:
        httpx2.get(f"{url}/health")
    except httpx2.HTTPError:
        return True
    return False


def test_small_packets_are_not_held_back():
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_data_urls_of_any_padding_are_what_they_were(address):
    for size in (10, 11, 12):
        data = encoded("png", (size, 9))
        part = {"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(data).decode()}"}}
        assert post(address, asked([part], max_tokens=1)).status_code == 200
