"""A port, and an application on it until a signal comes."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.serve.connection import Connection, LoopErrors, raise_descriptor_limit
from llavakit.serve.pauses import shorten_pauses

LOOPBACK = ("127.0.0.1", "::1")
KEEP_ALIVE = 30  # seconds an idle connection stays: longer than clients keep it, or both would end it at once
BACKLOG = 1024  # connections that wait to be accepted
STOPPED_AT_ONCE = 130  # the exit code of a program that Ctrl-C ended


class Server(uvicorn.Server):
    """Uvicorn whose process ends with code 0 after a first signal: running answers are finished, none is begun.

    A second one ends it at once.
    """

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve in this process, which is there for nothing else."""
        raise_descriptor_limit()
        shorten_pauses()
        super().run(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again when all is done, which would look like a crash."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(LoopErrors())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        if self.should_exit:
            os._exit(STOPPED_AT_ONCE)  # threads are at work that nobody wants any more
        self.should_exit = True
        say("finishing what is running; once more to stop at once")


def app_config(app: Callable[..., Any]) -> uvicorn.Config:
    """How uvicorn runs: one process, one event loop, our connections, no log of its own."""
    return uvicorn.Config(
        app, http=Connection, loop="asyncio", backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE,
        log_config=None, access_log=False, server_header=False, ws="none",
    )  # fmt: skip


def place_of(listener: socket.socket) -> str:
    """Where a bound socket is found, as a URL without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that port 0 is known and a port in use is one clear line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With its protocol: asyncio turns off the delay of small packets only where the socket says TCP.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # who comes before uvicorn is ready waits
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener
