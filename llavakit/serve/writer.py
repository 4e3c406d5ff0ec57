"""What every wire format of an answer has in common: made whole of deltas, or sent as server-sent events."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from llavakit.serve.choice import Delta
from llavakit.serve.errors import ApiError
from llavakit.serve.usage import Usage
from llavakit.version import __version__

FINGERPRINT = f"llavakit-{__version__}"
Event = dict[str, Any]
# In ASCII: some clients end a line at letters such as U+2028, where server-sent events do not.
_to_ascii = json.JSONEncoder(separators=(",", ":")).encode


class Writer(ABC):
    """One for each request; ids and times are drawn when it is made. A stream is told as the bytes to be sent."""

    prefix: str  # of the answer's id

    def __init__(self, number: str, model: str) -> None:
        self.id, self.model, self.created = f"{self.prefix}-{number}", model, int(time.time())

    @abstractmethod
    def gather(self, delta: Delta) -> None:
        """Take a delta of an answer that is sent whole."""

    @abstractmethod
    def whole(self, choices: int, usage: Usage) -> bytes:
        """JSON of all that was gathered."""

    @abstractmethod
    def opening(self, choices: int) -> bytes:
        """What a stream begins with."""

    @abstractmethod
    def events(self, delta: Delta) -> bytes:
        """What one delta adds to a stream."""

    @abstractmethod
    def closing(self, usage: Usage) -> bytes:
        """What a stream ends with."""

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that is broken off."""
        return server_sent(error.body())


class CompletionsWriter(Writer):
    """OpenAI's completions, of chats and of texts: choices in an envelope, which is written once for all chunks."""

    kind: str  # of a whole answer
    chunk_kind: str

    def __init__(self, number: str, model: str, *, with_usage: bool) -> None:
        """`with_usage`: a stream tells it at its end, and that it is not known before."""
        super().__init__(number, model)
        self._with_usage = with_usage
        self._before = b"data: " + to_json(self._head(self.chunk_kind))[:-1].encode() + b',"choices":['
        self._behind = (b'],"usage":null}' if with_usage else b"]}") + b"\n\n"

    def closing(self, usage: Usage) -> bytes:
        told = self._head(self.chunk_kind) | {"choices": [], "usage": usage.model_dump()}
        return (server_sent(told) if self._with_usage else b"") + b"data: [DONE]\n\n"

    def _envelope(self, choices: Iterable[str], usage: Usage) -> bytes:
        """A whole answer; `choices` are JSON."""
        head = to_json(self._head(self.kind) | {"usage": usage.model_dump()})
        return f'{head[:-1]},"choices":[{",".join(choices)}]}}'.encode()

    def _chunk(self, choice: Mapping[str, Any]) -> bytes:
        return self._before + _to_ascii(choice).encode() + self._behind

    def _head(self, kind: str) -> Event:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }  # fmt: skip


def server_sent(event: Mapping[str, Any]) -> bytes:
    """An event as it is sent."""
    return b"data: " + _to_ascii(event).encode() + b"\n\n"


def to_json(value: object) -> str:
    """Compact JSON text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
