"""`llavakit serve`: a model on a port until a signal comes."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from llavakit.core.progress import say
from llavakit.serve.app import create_app
from llavakit.serve.logs import log_to_stderr
from llavakit.serve.service import Service

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STOPPED_AT_ONCE = 130  # the exit code of a program that Ctrl-C ended


class Server(uvicorn.Server):
    """Uvicorn whose process ends with code 0 after a first signal: running answers are finished, none is begun.

    A second one ends it at once.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again when all is done, which would look like a crash."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        if self.should_exit:
            os._exit(STOPPED_AT_ONCE)  # threads are at work that nobody wants any more
        self.should_exit = True
        say("finishing what is running; once more to stop at once")


def serve(service: Service, host: str, port: int) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    log_to_stderr()
    if host not in LOOPBACK and not service.settings.api_keys:
        say(f"warning: whoever reaches {host}:{port} may use this server; give it an --api-key")
    config = uvicorn.Config(
        create_app(service), host=host, port=port, log_config=None, access_log=False, server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    say(f"serving {service.settings.model_name} on http://{host}:{port}/v1")
    Server(config).run()
