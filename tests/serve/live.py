"""Servers for tests: one in this process with answers as written, one on a port with a tiny model."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import uvicorn
from fastapi.testclient import TestClient

from llavakit.data.encode import Encoder
from llavakit.engine.engine import Engine
from llavakit.engine.request import Event
from llavakit.engine.worker import Ticket
from llavakit.serve.app import create_app
from llavakit.serve.decoding import Decoders
from llavakit.serve.listener import listen
from llavakit.serve.server import http_config
from llavakit.serve.service import Service
from llavakit.serve.settings import ServeConfig
from llavakit.vision.frames import VideoConfig
from tests import tiny

CONTEXT = 2048  # what is told about tools is long for a tokenizer of 500 words
VIDEO = VideoConfig(max_frames=3, pool_first=True)
CHAT = "/v1/chat/completions"


class ScriptedWorker:
    """Says the given texts to one request after the other, in a thread each. `gate` holds everything back.

    A tuple has a text for each choice.
    """

    def __init__(self, *texts: str | tuple[str, ...], finish: str = "stop") -> None:
        self.texts, self.finish = list(texts), finish
        self.tokenizer = tiny.byte_level_tokenizer()
        self.gate = Flag()
        self.gate.set()
        self.requests, self.cancelled, self.closed = [], [], []

    def submit(self, request, listen, ends) -> Ticket:
        number, stopped = len(self.requests), Flag()
        self.requests.append(request)
        text = self.texts[number % len(self.texts)]
        Thread(target=self._say, args=(request, text, listen, ends, stopped), daemon=True).start()

        def cancel() -> None:
            self.cancelled.append(number)
            stopped.set()
            self.gate.set()

        return Ticket(cancel)

    def close(self, *, finish: bool = True) -> None:
        self.closed.append(finish)

    def _say(self, request, text, listen, ends, stopped) -> None:
        texts = (text,) * request.sampling.n if isinstance(text, str) else text
        said = [self.tokenizer.hf(each)["input_ids"] for each in texts]
        top = tuple((token, -float(token)) for token in range(request.sampling.logprobs or 0))
        logprob = None if request.sampling.logprobs is None else -1.5
        for choice in range(request.sampling.n):
            ended = False
            for token in said[choice]:
                self.gate.wait()
                if stopped.is_set():
                    listen(Event(0, choice, None, finish="cancelled"))
                    return
                ended = ends(choice, token)
                listen(Event(0, choice, token, logprob, top, "stop" if ended else None))
                if ended:
                    break
            if not ended:
                listen(Event(0, choice, None, finish=self.finish))


@cache
def decoders() -> Decoders:
    """The processes that decode for all servers of the tests; they end with the one that made them."""
    return Decoders(2, 20)


def service(
    worker=None, *, context: int = CONTEXT, best_of=None, toolbox=None, own=None, **settings
) -> Service:
    """A service with the tiny model, which also takes videos, or with a worker in its place; `own` decoders."""
    ck, plain = tiny.checkpoint(), tiny.encoder()
    encoder = Encoder(plain.tokenizer, plain.template, plain.image, VIDEO)
    ck.model.language.config.max_position_embeddings = context
    engine = Engine(ck.model, encoder.tokenizer.stop_ids(encoder.template), tokenizer=encoder.tokenizer)
    config = ServeConfig(**({"model_name": "tiny"} | settings))
    return Service(
        engine, encoder, config, worker=worker, best_of=best_of, toolbox=toolbox, decoders=own or decoders()
    )


@contextmanager
def client(worker=None, **settings) -> Iterator[TestClient]:
    with TestClient(create_app(service(worker, **settings)), raise_server_exceptions=False) as found:
        yield found


@contextmanager
def served(worker=None, **settings) -> Iterator[tuple[str, Service]]:
    """A real server in a thread: its address, and the service behind it."""
    made = service(worker, **settings)
    with serving(made) as url:
        yield url, made


@contextmanager
def serving(made: Service) -> Iterator[str]:
    """A real server of a service in a thread: its address."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(http_config(made))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def process(model: Path, *options: str, **environ: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`llavakit serve` as a person starts it: its address, and the process."""
    command = [sys.executable, "-m", "llavakit", "serve", "--model", str(model), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environ
    ) as running:
        try:
            line = next((line for line in running.stdout if line.startswith("serving")), "")
            assert line, running.stderr.read()
            yield line.split()[-1].removesuffix("/v1"), running
        finally:
            if running.poll() is None:
                running.kill()


def wait_until(true: Callable[[], bool], seconds: float = 5) -> None:
    """Until it is so; an error when it takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def asked(content="hi", **fields) -> dict:
    """A request, with a text or parts of content."""
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "temperature": 0} | fields


def post(found: TestClient, **fields) -> dict:
    """A chat completion, which has to be one."""
    answer = found.post(CHAT, json=asked(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def text_of(answer: dict, choice: int = 0) -> str:
    return answer["choices"][choice]["message"]["content"]


def image_part(path: Path) -> dict:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def chunks(body: str) -> list[dict]:
    """The events of a stream, which has to end with [DONE]."""
    events = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]
