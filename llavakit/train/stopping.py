"""Stopping from outside: Ctrl-C and SIGTERM end a run after the step, saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType

from llavakit.core.progress import say
from llavakit.train.run import Run
from llavakit.train.run_directory import newest_checkpoint
from llavakit.train.state import State


class StopRequest:
    """Whether somebody wants the run to stop. `number` is that of the signal, 0 before there is one."""

    def __init__(self, run: Run, state: State) -> None:
        self.run, self.state = run, state
        self.number = 0
        self._timer: Timer | None = None
        self._is_saving = False

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler. A second Ctrl-C stops at once, unsaved; not so SIGTERM, which schedulers repeat."""
        if self.number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        if number == signal.SIGINT:
            say("stopping after this step and saving; Ctrl-C again stops at once")
            return
        if self._is_saving:
            say("SIGTERM: stopping when this is saved")
            return
        steps, grace = self.state.step, self.run.grace
        usual = f" (steps take about {self.state.seconds / steps:.1f} s)" if steps else ""
        say(f"SIGTERM: stopping after this step{usual} and saving; it is given {grace:g} s to end (grace)")
        self._timer = Timer(grace, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """The step has ended, and there is no deadline any more: a save is never cut short from here."""
        self._is_saving = True
        self.end()
        yield
        self._is_saving = False

    def end(self) -> None:
        """No deadline any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        try:
            newest = newest_checkpoint(self.run.out)
            what = "nothing was saved before" if newest is None else f"the newest checkpoint is {newest}"
            say(
                f"step {self.state.step + 1} did not end within {self.run.grace:g} s of SIGTERM: "
                f"not saved; {what}"
            )
        finally:
            os._exit(exit_code(signal.SIGTERM))  # the main thread may be deep in a product or wait for a rank


def exit_code(number: int) -> int:
    """What shells and schedulers read as "ended by this signal"."""
    return 128 + number


@contextmanager
def listen(run: Run, state: State) -> Iterator[StopRequest]:
    """A StopRequest that SIGINT and SIGTERM set. Only the main thread of a process can listen."""
    request = StopRequest(run, state)
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request.receive)
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        yield request
        return
    try:
        yield request
    finally:
        request.end()
        for number, handler in before.items():
            signal.signal(number, handler)
