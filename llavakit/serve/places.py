"""Places for requests whose bodies are here: so many at once, and the others are told when to come back."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llavakit.serve.errors import ApiError
from llavakit.serve.metrics import Metrics


class Places:
    """Who has a place is being answered, or waits for the engine. For the event loop alone."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit, self.metrics = limit, metrics
        self._taken = 0
        self._usual_seconds = 1.0  # a running mean

    def check(self) -> None:
        """Refuse where there is none, before a body is read for nothing."""
        if self._taken >= self.limit:
            raise ApiError(
                f"{self._taken} requests are being answered or wait; try again later",
                status=429, code="queue_full", headers={"Retry-After": str(math.ceil(self._usual_seconds))},
            )  # fmt: skip

    @contextmanager
    def take(self) -> Iterator[None]:
        """A place, until the end of the answer. Who is still sending has none: many slow senders are no queue."""
        self.check()
        self._count(1)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._count(-1)
            self._usual_seconds += 0.1 * (time.perf_counter() - began - self._usual_seconds)

    def _count(self, more: int) -> None:
        self._taken += more
        self.metrics.in_flight.set(self._taken)
