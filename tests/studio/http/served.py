"""A studio for tests: a server in this process, a chat model that says what it was told, pictures."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import PIL.Image
import uvicorn

from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.serve.listener import app_config, listen, place_of
from llavakit.studio.defaults import default_bench
from llavakit.studio.http.app import create_studio
from llavakit.studio.http.rooms import Rooms
from llavakit.studio.http.settings import StudioConfig
from llavakit.studio.http.talk import Talk
from llavakit.text.conversation import Conversation, Video

BYTES = {"Content-Type": "application/octet-stream"}


class Scripted(Responder):
    """Says one line after the other, in pieces; `heard` is what it was asked. `wait`: before the second piece."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard, self.wait = list(lines), [], Event()
        self.wait.set()

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        raise NotImplementedError

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        self.heard.append(conversation)
        first, *others = self.lines.pop(0).split(" ")
        yield first
        for word in others:
            assert self.wait.wait(20)
            yield f" {word}"

    def num_tokens(self, answer: str) -> int | None:
        return None

    def describe(self, video: Video) -> str:
        raise NotImplementedError


def studio_app(folder: Path, responder: Responder | None = None, *, segments: bool = False, **settings):
    """The application and its pictures. Looking at a picture takes seconds: only with `segments` it is done."""
    config, bench = StudioConfig(folder=folder, **settings), default_bench()
    if not segments:
        del bench.chosen["segment"]
    rooms = Rooms(config, bench)
    return create_studio(rooms, Talk(responder, "a model", config)), rooms


@contextmanager
def serving(
    folder: Path,
    responder: Responder | None = None,
    port: int = 0,
    prepared: Callable[[Rooms], None] = lambda rooms: None,
    **settings,
) -> Iterator[str]:
    """The address of a studio in this process; `prepared` may add engines to it."""
    app, rooms = studio_app(folder, responder, **settings)
    prepared(rooms)
    with closing(listen("127.0.0.1", port)) as listener:
        server = uvicorn.Server(app_config(app))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield place_of(listener)
        finally:
            server.should_exit = True
            thread.join()


def png(pixels) -> bytes:
    """uint8[h, w, 3] or [h, w, 4] as a file."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(data: bytes) -> PIL.Image.Image:
    """A file as a picture."""
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image
