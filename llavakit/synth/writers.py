"""Who is asked: a model here or behind a URL, by many threads at once, again where a server failed."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Flag

from llavakit.chat import Chat
from llavakit.core.errors import RemoteError, RemoteRefused, UserError
from llavakit.engine.request import Event
from llavakit.engine.responder import Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.remote import Remote
from llavakit.text.conversation import Conversation

Ask = Callable[[Conversation, Sampling], Answer]
TRIES = 4  # of a server that failed
PAUSE = 0.5  # seconds before the first of them, twice as many before each other
HERE = 32  # conversations that a model here is asked at once


@dataclass(frozen=True)
class Writer:
    """One who is asked, and the names it is known by."""

    ask: Ask
    model: str
    weights: str | None = None  # a fingerprint, of a model here
    remote: Remote | None = None

    @property
    def who(self) -> dict[str, str | None]:
        """What a row and a request are named with."""
        return {"model": self.model, "weights": self.weights}

    @property
    def at_once(self) -> int:
        """How many threads it can answer."""
        return HERE if self.remote is None else self.remote.at_once


@contextmanager
def open_writer(responder: Responder, names: Mapping[str, str | None]) -> Iterator[Writer]:
    """A responder as a writer that any thread may ask, for as long as the block lasts."""
    model, weights = str(names["model"]), names.get("weights")
    if isinstance(responder, Remote):
        try:
            yield Writer(lambda talk, how: _persist(responder, talk, how), model, weights, responder)
        finally:
            responder.close()
    elif isinstance(responder, Chat):
        worker = Worker(responder.engine)
        try:
            yield Writer(lambda talk, how: _ask_here(responder, worker, talk, how), model, weights)
        finally:
            worker.close(finish=False)
    else:
        yield Writer(lambda talk, how: responder.answers([talk], sampling=how)[0], model, weights)


def _persist(remote: Remote, talk: Conversation, sampling: Sampling) -> Answer:
    """The answer of a server; a failure that may pass is waited for. Busy servers are `Server`'s own affair."""
    for count in range(TRIES):
        try:
            return remote.answer(talk, sampling)
        except RemoteRefused:
            raise
        except RemoteError:
            if count == TRIES - 1:
                raise
        time.sleep(random.uniform(0.5, 1.0) * PAUSE * 2**count)
    raise AssertionError("the last try returns or raises")


def _ask_here(chat: Chat, worker: Worker, talk: Conversation, sampling: Sampling) -> Answer:
    """The answer of a model in this process; those that are asked at the same time run together."""
    sample = chat.encoder.encode(talk, open_turn=True)
    reply, done, last = chat.reply(sampling), Flag(), list[Event]()
    count = 0

    def ends(_: int, token: int) -> bool:
        reply.add(token)
        return reply.ended

    def listen(event: Event) -> None:
        nonlocal count
        count += event.token is not None
        if event.finish is not None:
            last.append(event)
            done.set()

    worker.submit(chat.engine.prepare(sample, sampling.model_copy(update={"stop": ()})), listen, ends)
    done.wait()
    error = last[0].error
    if error is not None:
        raise error if isinstance(error, UserError) else RuntimeError("the engine failed") from error
    reply.finish()
    return Answer(reply.text.strip(), str(last[0].finish), sample.num_tokens, count)
