"""From the engine's thread to the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Bridge:
    """Calls functions in the loop for one other thread, in order, and wakes the loop once for many of them.

    Waking it is a system call that lets go of the interpreter's lock, and a step of the engine tells of every
    sequence: one call for each would cost more than a small model's step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._woken = False

    def call(self, function: Callable[[Any], object], argument: object) -> None:
        """`function(argument)`, soon, in the loop. For the other thread."""
        self._calls.append((function, argument))
        if not self._woken:  # else somebody is on the way who will find the call
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False  # first: what comes from now on may be missed below
        while self._calls:
            function, argument = self._calls.popleft()
            function(argument)
