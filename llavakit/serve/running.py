"""An answer while it is said: requests on the engine, and their deltas in the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from llavakit.core.errors import DataError
from llavakit.engine.request import Event, Request
from llavakit.engine.worker import Ticket, Worker
from llavakit.serve.bridge import Bridge
from llavakit.serve.choice import Choice, Delta
from llavakit.serve.errors import ApiError
from llavakit.serve.usage import PromptDetails, Usage

# What a request's reader tells: deltas, or how to make them, or why there are none.
Told = list[Delta] | Callable[[], list[Delta]] | ApiError


class Answer:
    """An answer on the engine: iterate over lists of its deltas, and `close` it, whatever happened.

    Of an answer that is not `live` the first list is empty, when its first token is there, and the others are whole
    choices.
    """

    def __init__(
        self,
        worker: Worker,
        bridge: Bridge,
        prepared: Sequence[Request],
        choices: Sequence[Choice],
        shaping: str,
        *,
        live: bool,
        deadline: float,
        late: Callable[[], ApiError],
    ) -> None:
        """`choices` are those of each of the requests, one after the other. `shaping` made their schema.

        At `deadline`, in the time of the event loop, what is not said is the error that `late` makes.
        """
        self._bridge, self._choices = bridge, choices
        self.notes: dict[str, object] = {}  # for the log
        self._open = len(self._choices)
        self._queue: asyncio.Queue[Told] = asyncio.Queue()
        self._timer = asyncio.get_running_loop().call_at(deadline, lambda: self._queue.put_nowait(late()))
        self._samples = [request.sample for request in prepared]
        self._tickets: list[Ticket] = []
        first = 0
        for request in prepared:
            reader = _Reader(self._choices[first : first + request.sampling.n], self._tell, shaping, live)
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

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while self._open:
            told = [await self._queue.get()]
            while not self._queue.empty():  # what came together goes out together
                told.append(self._queue.get_nowait())
            deltas: list[Delta] = []
            for each in told:
                if isinstance(each, ApiError):
                    if deltas:
                        yield deltas
                    raise each
                # Text of a long answer is made beside the loop.
                deltas += each if isinstance(each, list) else await asyncio.to_thread(each)
            self._open -= sum(delta.finish is not None for delta in deltas)
            yield deltas

    def close(self) -> bool:
        """Free the engine's slot if the answer is not complete; whether that was so."""
        self._timer.cancel()
        was_open, self._open = self._open > 0, 0
        if was_open:
            for ticket in self._tickets:
                ticket.cancel()
        return was_open

    def _tell(self, told: Told) -> None:
        self._bridge.call(self._queue.put_nowait, told)


@dataclass
class _Reader:
    """Hears one request in the engine's thread."""

    choices: Sequence[Choice]
    tell: Callable[[Told], None]
    shaping: str
    live: bool
    begun: bool = False

    def ends(self, choice: int, token: int) -> bool:
        return self.choices[choice].ends(token)

    def listen(self, event: Event) -> None:
        if event.finish in ("failed", "cancelled"):
            self.tell(_failure(event, self.shaping))
        elif not self.live:
            self._note(event)
        elif deltas := self.choices[event.choice].take(event):
            self.tell(deltas)

    def _note(self, event: Event) -> None:
        """Tell of the first token and of whole choices: for every other one the event loop would wake in vain."""
        if not self.begun:
            self.begun = True
            self.tell([])
        if event.finish is not None:
            self.tell(partial(self.choices[event.choice].take, event))


def _failure(event: Event, shaping: str) -> ApiError:
    """Why an answer broke off: for a reason in the request, or one of ours, which the log has."""
    if isinstance(event.error, DataError):
        return ApiError(str(event.error), param=shaping, code="invalid_schema")
    return ApiError("the engine failed at this request", status=500, code="engine_failed")
