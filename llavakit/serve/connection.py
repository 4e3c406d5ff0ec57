"""A client's connection: who sends nothing, or headers without end, or more than it needs, is not waited for."""

import asyncio
import logging
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llavakit.serve.logs import log

HEAD_SECONDS = 10  # for the first byte of a request to be followed by the last of its headers
HEAD_BYTES = 64 * 1024
LINGER = 5  # seconds that the rest of a body may take whose request has been answered
DESCRIPTORS = 65536  # as many connections are enough for one process
SPARE = 96  # descriptors that are not for connections: files, pictures that are fetched, the listener
QUIET = 1.0  # seconds between two lines about the same trouble


class Connection(HttpToolsProtocol):
    """uvicorn's, with an end to everything that a client can draw out."""

    _head: int | None = 0  # bytes of headers so far; None: they are complete
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there. One more than there are descriptors for is sent away at once."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._end_after(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Headers are counted, for the parser would gather them without end."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self._timer is None and self.timeout_keep_alive_task is None:
            self._end_after(HEAD_SECONDS)  # blanks in front of a request are none of it

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head = 0
        self._end_after(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """From here on the application decides how long to wait."""
        self._head = None
        self._go_on()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """An answer that comes before its request is complete, as a refusal does, ends soon."""
        unread = self.cycle.more_body
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._end_after(LINGER)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self.cycle.response_complete:
            self._go_on()
        super().on_message_complete()

    def _end_after(self, seconds: float) -> None:
        self._go_on()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def raise_descriptor_limit() -> None:
    """As many descriptors as this process may have: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """How many clients can be connected at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else max(1, soft - SPARE)


class LoopErrors:
    """What the event loop cannot tell anybody, as one line; trouble that goes on is a line a second."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The handler of `loop.set_exception_handler`."""
        error, what = context.get("exception"), context["message"]
        if isinstance(
            error, OSError
        ):  # no descriptors, a connection that broke: nothing a traceback would explain
            if loop.time() - self._told.get(what, -QUIET) < QUIET:
                return
            self._told[what] = loop.time()
            log("system", level=logging.WARNING, what=what, error=error.strerror or str(error))
        else:
            loop.default_exception_handler(context)
