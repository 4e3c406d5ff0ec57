"""An answer while it is said: requests on the engine, and their deltas in the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from llavakit.core.errors import DataError
from llavakit.engine.request import Event, Request
from llavakit.engine.worker import Ticket, Worker
from llavakit.serve.bridge import Bridge
from llavakit.serve.choice import Choice, Delta
from llavakit.serve.errors import ApiError
from llavakit.serve.usage import PromptDetails, Usage


class Answer:
    """An answer on the engine: iterate over its deltas, and `close` it, whatever happened."""

    def __init__(
        self,
        worker: Worker,
        bridge: Bridge,
        prepared: Sequence[Request],
        choices: Sequence[Choice],
        shaping: str,
        within: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`choices` are those of each of the requests, one after the other. `shaping` made their schema.

        `within` is around every wait, and ends those that take too long.
        """
        self._bridge, self._choices, self._within = bridge, choices, within
        self.notes: dict[str, object] = {}  # for the log
        self._open = len(self._choices)
        self._queue: asyncio.Queue[list[Delta] | ApiError] = asyncio.Queue()
        self._samples = [request.sample for request in prepared]
        self._tickets: list[Ticket] = []
        first = 0
        for request in prepared:
            reader = _Reader(self._choices[first : first + request.sampling.n], self._tell, shaping)
            self._tickets.append(worker.submit(request, reader.listen, reader.ends))
            first += request.sampling.n

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        said = sum(choice.num_tokens for choice in self._choices)
        asked = sum(sample.num_tokens for sample in self._samples)
        seen = sum(medium.plan.num_tokens for sample in self._samples for medium in sample.media)
        return Usage(
            prompt_tokens=asked,
            completion_tokens=said,
            total_tokens=asked + said,
            prompt_tokens_details=PromptDetails(image_tokens=seen),
        )

    @property
    def num_choices(self) -> int:
        """How many answers were asked for."""
        return len(self._choices)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while self._open:
            async with self._within():
                deltas = await self._queue.get()
            if isinstance(deltas, ApiError):
                raise deltas
            for delta in deltas:
                self._open -= delta.finish is not None
                yield delta

    def close(self) -> bool:
        """Free the engine's slot if the answer is not complete; whether that was so."""
        was_open, self._open = self._open > 0, 0
        if was_open:
            for ticket in self._tickets:
                ticket.cancel()
        return was_open

    def _tell(self, deltas: "list[Delta] | ApiError") -> None:
        self._bridge.call(self._queue.put_nowait, deltas)


@dataclass(frozen=True)
class _Reader:
    """Hears one request in the engine's thread."""

    choices: Sequence[Choice]
    tell: Callable[[list[Delta] | ApiError], None]
    shaping: str

    def ends(self, choice: int, token: int) -> bool:
        return self.choices[choice].ends(token)

    def listen(self, event: Event) -> None:
        if event.finish in ("failed", "cancelled"):
            self.tell(_failure(event, self.shaping))
        elif deltas := self.choices[event.choice].take(event):
            self.tell(deltas)


def _failure(event: Event, shaping: str) -> ApiError:
    """Why an answer broke off: for a reason in the request, or one of ours, which the log has."""
    if isinstance(event.error, DataError):
        return ApiError(str(event.error), param=shaping, code="invalid_schema")
    return ApiError("the engine failed at this request", status=500, code="engine_failed")
