"""What every wire format of an answer has in common: made whole of deltas, or sent as server-sent events."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from llavakit.serve.choice import Delta
from llavakit.serve.errors import ApiError
from llavakit.serve.usage import Usage

Event = dict[str, Any]


class Writer(ABC):
    """One for each request; ids and times are drawn when it is made."""

    prefix: str  # of the answer's id
    last = b"data: [DONE]\n\n"  # what ends a stream that was not broken off

    def __init__(self, number: str, model: str) -> None:
        self.id, self.model, self.created = f"{self.prefix}-{number}", model, int(time.time())

    @abstractmethod
    def gather(self, delta: Delta) -> None:
        """Take a delta of an answer that is sent whole."""

    @abstractmethod
    def whole(self, choices: int, usage: Usage) -> bytes:
        """JSON of all that was gathered."""

    @abstractmethod
    def opening(self, choices: int) -> Iterable[Event]:
        """What a stream begins with."""

    @abstractmethod
    def events(self, delta: Delta) -> Iterable[Event]:
        """What one delta adds to a stream."""

    @abstractmethod
    def closing(self, usage: Usage) -> Iterable[Event]:
        """What a stream ends with."""

    def failure(self, error: ApiError) -> Event:
        """The last event of a stream that is broken off."""
        return error.body()

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """An event as it is sent."""
        # In ASCII: some clients end a line at letters such as U+2028, where server-sent events do not.
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def to_json(value: object) -> str:
    """Compact JSON text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
