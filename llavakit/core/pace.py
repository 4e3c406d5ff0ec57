"""How many requests a server is sent at once: more while it keeps up, half as many when it says that it is busy."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

WINDOW = 64  # requests whose times are looked at
SLOWER = 2.0  # times the best 95th percentile: more at once would only wait in the server's queue
QUICK = 0.05  # seconds; nobody waits in the queue of a server that answers so soon
FORGETS = 1.02  # what the best is multiplied by at every look, as prompts and answers change in length
PAUSE = 0.5  # seconds in which further complaints are about the same overload


class Pace:
    """A limit that all threads share. It grows by one when as many requests as it allows came back in time."""

    def __init__(self, most: int, start: int | None = None) -> None:
        """Never above `most`. Without a `start` it begins there, and times do not matter."""
        self.most, self.limit = most, most if start is None else min(start, most)
        self._follows_times = start is not None
        self._under_way = self._in_time = 0
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._best: float | None = None
        self._slowed = -PAUSE
        self._freed = Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place; what the block takes is how long the request took."""
        with self._freed:
            while self._under_way >= self.limit:
                self._freed.wait()
            self._under_way += 1
        begun, ended_well = time.monotonic(), False
        try:
            yield
            ended_well = True
        finally:
            with self._freed:
                self._under_way -= 1
                if ended_well:
                    self._took(time.monotonic() - begun)
                self._freed.notify_all()

    def slow_down(self) -> None:
        """The server is busy."""
        with self._freed:
            if time.monotonic() - self._slowed >= PAUSE:
                self._slowed = time.monotonic()
                self.limit, self._in_time = max(1, self.limit // 2), 0

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share of the last requests came back; None before there was any."""
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def _took(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._in_time += 1
        if self._in_time < self.limit:
            return
        self._in_time = 0
        late = self.percentile(0.95)
        assert late is not None
        self._best = late if self._best is None else min(self._best * FORGETS, late)
        if self._follows_times and late > SLOWER * max(self._best, QUICK):
            self.limit = max(1, self.limit - 1)
        else:
            self.limit = min(self.most, self.limit + 1)
