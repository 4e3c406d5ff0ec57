"""`llavakit serve`: a model on a port until a signal comes."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.serve.app import create_app
from llavakit.serve.connection import Connection, LoopErrors, raise_descriptor_limit
from llavakit.serve.logs import log_to_stderr
from llavakit.serve.service import Service

LOOPBACK = ("127.0.0.1", "::1")
KEEP_ALIVE = 30  # seconds an idle connection stays: longer than clients keep it, or both would end it at once
BACKLOG = 1024  # connections that wait to be accepted
STOPPED_AT_ONCE = 130  # the exit code of a program that Ctrl-C ended


class Server(uvicorn.Server):
    """Uvicorn whose process ends with code 0 after a first signal: running answers are finished, none is begun.

    A second one ends it at once.
    """

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


def serve(service: Service, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM. `listener` is what `listen` gave."""
    log_to_stderr(content=service.settings.log_content)
    host, port = listener.getsockname()[:2]
    if host not in LOOPBACK and not service.settings.api_keys:
        say(f"warning: whoever reaches {host}:{port} may use this server; give it an --api-key")
    say(f"serving {service.settings.model_name} on http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    say(service.engine.about)
    say(str(service.plan))
    raise_descriptor_limit()
    Server(http_config(service)).run([listener])


def http_config(service: Service) -> uvicorn.Config:
    """How uvicorn runs: one process, one event loop, our connections, no log of its own."""
    return uvicorn.Config(
        create_app(service), http=Connection, loop="asyncio", backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE,
        log_config=None, access_log=False, server_header=False, ws="none",
    )  # fmt: skip


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
