"""A thread that steps an engine, so that event loops and other threads can ask it at any time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread

from llavakit.core.errors import UserError
from llavakit.engine.engine import Engine
from llavakit.engine.request import Ends, Event, Listen, Request, never

log = logging.getLogger(__name__)
Errand = Callable[[], None]


@dataclass(frozen=True)
class Ticket:
    """A request that was handed to a worker."""

    cancel: Callable[[], None]  # from any thread, at any time; one that has ended stays as it is


class Worker:
    """Runs `engine` in a thread of its own. What listens is called in that thread and must not wait there.

    An error in a step ends the requests that run ("failed") and is logged; the worker goes on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._errands: SimpleQueue[Errand | None] = SimpleQueue()
        self._ended, self._hurry = Flag(), False
        self._thread = Thread(target=self._run, name="llavakit-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listen: Listen, ends: Ends = never) -> Ticket:
        """Hand a prepared request over. Every choice's last event has a `finish`."""
        numbers: list[int] = []

        def start() -> None:
            try:
                numbers.append(self.engine.submit(request, listen, ends))
            except UserError as error:
                log.warning("a request was refused: %s", error)
                for choice in range(request.sampling.n):
                    listen(Event(-1, choice, None, finish="failed"))

        self._errands.put(start)
        return Ticket(lambda: self._errands.put(lambda: [self.engine.cancel(n) for n in numbers] and None))

    def run(self, errand: Errand) -> None:
        """Do something with the engine between two steps (new weights, say); returns when it is done."""
        done, failed = Flag(), list[BaseException]()

        def do() -> None:
            try:
                errand()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                failed.append(error)
            done.set()

        self._errands.put(do)
        done.wait()
        if failed:
            raise failed[0]

    def close(self, *, finish: bool = True) -> None:
        """Stop. With `finish`, what runs and waits ends first; without, it is cancelled."""
        self._hurry = not finish
        self._errands.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            while self.engine.busy and self._errands.empty():
                self._step()
            errand = self._errands.get()
            if errand is None:
                break
            errand()
        while self.engine.busy and not self._hurry:
            self._step()
        self.engine.abort("cancelled")

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception:
            log.exception("a step of the engine failed; its requests are ended")
            self.engine.abort("failed")
