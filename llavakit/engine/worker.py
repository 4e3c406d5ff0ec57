"""A thread that steps an engine, so that event loops and other threads can ask it at any time."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event as Flag
from typing import TypeVar

from llavakit.engine.engine import Engine
from llavakit.engine.request import Ends, Listen, Request, never

log = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass(frozen=True)
class Ticket:
    """A request that was handed to a worker."""

    cancel: Callable[[], object]  # from any thread, at any time; one that has ended stays as it is


class Worker:
    """Runs `engine` in a thread of its own. What listens is called in that thread and must not wait there.

    An error in a step ends the requests that run ("failed") and is logged; the worker goes on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Steps and errands take turns in the queue of the one thread: a step puts the next one behind what came.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llavakit-engine")
        self._turning = False
        self._idle = Flag()
        self._idle.set()

    def submit(self, request: Request, listen: Listen, ends: Ends = never) -> Ticket:
        """Hand a prepared request over. Every choice's last event has a `finish`."""
        number = self._thread.submit(self._start, request, listen, ends)
        return Ticket(lambda: self._thread.submit(self._cancel, number))

    def run(self, errand: Callable[[], R]) -> R:
        """Do something with the engine between two steps (new weights, say), and wait for what it gives."""
        return self._thread.submit(errand).result()

    def close(self, *, finish: bool = True) -> None:
        """Stop; nothing may be submitted any more. With `finish`, what runs and waits ends first."""
        if not finish:
            self._thread.submit(self._abandon)
        self._thread.submit(self._turn_soon).result()
        self._idle.wait()
        self._thread.shutdown()

    def _start(self, request: Request, listen: Listen, ends: Ends) -> int:
        number = self.engine.submit(request, listen, ends)
        self._turn_soon()
        return number

    def _cancel(self, number: "Future[int]") -> None:
        self.engine.cancel(number.result())

    def _abandon(self) -> None:
        self.engine.abort("cancelled")

    def _turn_soon(self) -> None:
        if not self.engine.busy:
            self._idle.set()
        elif not self._turning:
            self._turning = True
            self._idle.clear()
            self._thread.submit(self.engine.step).add_done_callback(self._turned)

    def _turned(self, step: "Future[None]") -> None:
        self._turning = False
        error = step.exception()
        if error is not None:
            log.error("a step of the engine failed; its requests are ended", exc_info=error)
            self.engine.abort("failed")
        self._turn_soon()
