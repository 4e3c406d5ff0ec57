"""A thread that steps an engine, so that event loops and other threads can ask it at any time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event as Flag
from threading import Lock
from typing import TypeVar

from llavakit.engine.engine import Engine
from llavakit.engine.fault import Boundary, report
from llavakit.engine.native import rest
from llavakit.engine.request import Ends, Event, Listen, Request, never

R = TypeVar("R")


@dataclass(frozen=True)
class Ticket:
    """A request that was handed to a worker."""

    cancel: Callable[[], object]  # from any thread, at any time; one that has ended stays as it is


class _Open:
    """A listener, and the choices that it has not heard the end of."""

    def __init__(self, request: Request, listen: Listen) -> None:
        self._listen, self.left = listen, set(range(request.sampling.n))

    def __call__(self, event: Event) -> None:
        if event.finish is not None:
            self.left.discard(event.choice)
        self._listen(event)

    def fail(self, error: Exception) -> None:
        """The rest will not come."""
        for choice in sorted(self.left):
            with Boundary():
                self._listen(Event(-1, choice, None, finish="failed", error=error))
        self.left.clear()


class Worker:
    """Runs `engine` in a thread of its own. What listens is called in that thread and must not wait there.

    The engine keeps a fault with its request. An error of a whole step ends the requests that run ("failed") and is
    logged; the worker goes on. If not even that can be done, all that is and will be asked has failed.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        if engine.kernels == "native":
            rest()  # what the caller's thread tried the kernels with
        # Steps and errands take turns in the queue of the one thread: a step puts the next one behind what came.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llavakit-engine")
        self._open: set[_Open] = set()
        self._broken: Exception | None = None
        self._turning = False
        self._idle = Flag()
        self._idle.set()
        self._gate = Lock()  # nothing may enter the thread's queue once it is shut
        self._closing = self._shut = False

    def submit(self, request: Request, listen: Listen, ends: Ends = never) -> Ticket:
        """Hand a prepared request over. Every choice's last event has a `finish`."""
        with self._gate:
            if self._closing:
                raise RuntimeError("the worker is closed")
            number = self._thread.submit(self._start, request, _Open(request, listen), ends)
        return Ticket(lambda: self._cancel_soon(number))

    def run(self, errand: Callable[[], R]) -> R:
        """Do something with the engine between two steps (new weights, say), and wait for what it gives."""
        return self._thread.submit(errand).result()

    def close(self, *, finish: bool = True) -> None:
        """Stop; nothing may be submitted any more. With `finish`, what runs and waits ends first."""
        with self._gate:
            if self._shut:
                return
            self._closing = True
        if not finish:
            self._thread.submit(self._end_all, None)
        self._thread.submit(self._turn_soon).result()
        self._idle.wait()
        with self._gate:
            self._shut = True
        self._thread.shutdown()

    def _start(self, request: Request, listen: _Open, ends: Ends) -> int | None:
        """The request's number; None if it failed at once."""
        if self._broken is not None:
            listen.fail(self._broken)
            return None
        with Boundary() as own:
            number = self.engine.submit(request, listen, ends)
            self._open.add(listen)
            self._turn_soon()
            return number
        assert own.error is not None
        report("a request could not begin", own.error)
        listen.fail(own.error)
        return None

    def _cancel_soon(self, number: "Future[int | None]") -> None:
        with self._gate:
            if not self._shut:
                self._thread.submit(self._cancel, number)

    def _cancel(self, number: "Future[int | None]") -> None:
        begun = number.result()
        if begun is not None:
            self.engine.cancel(begun)

    def _end_all(self, error: Exception | None) -> None:
        """End every request, by the engine or, if it cannot, without it."""
        with Boundary() as own:
            self.engine.abort("cancelled" if error is None else "failed", error)
        if own.error is not None:
            report("the engine cannot end its requests; nothing more is asked of it", own.error)
            self._broken = own.error
            for listen in self._open:
                listen.fail(own.error)

    def _turn_soon(self) -> None:
        self._open = {listen for listen in self._open if listen.left}
        if self._broken is not None or not self.engine.busy:
            self._idle.set()
        elif not self._turning:
            self._turning = True
            self._idle.clear()
            self._thread.submit(self.engine.step).add_done_callback(self._turned)

    def _turned(self, step: "Future[None]") -> None:
        self._turning = False
        error = step.exception()
        if isinstance(error, Exception):
            report("a step of the engine failed; its requests are ended", error)
            self._end_all(error)
        self._turn_soon()
