"""Calls of tools, apart from every form in which models and protocols write them: the card, the call, the result.

The forms stand beside this file, each a codec of its own. None of them runs anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llavakit.core.errors import UserError

Json = dict[str, Any]
PICTURES = "pictures"  # what the names of new pictures are called in a result's text


class ToolError(UserError):
    """A call that cannot be answered. The text is for models as much as for people: what is wrong, what exists."""


class ToolUnavailable(ToolError):
    """A tool that is not there (any more): its process, server or weights are missing, or it took too long."""


@dataclass(frozen=True)
class Weights:
    """What a tool has learned: where that comes from, and on whose terms."""

    name: str
    licence: str
    source: str  # package or hub id, with its version
    megabytes: float  # of memory while it runs, an estimate
    device: str = "cpu"  # auto: on the GPU if there is one


@dataclass(frozen=True)
class Card:
    """What a caller is told about a tool.

    `parameters` is the JSON schema of the arguments, an object. `seconds` is the most one call may take. A tool
    that is not `read_only` changes something outside the conversation's own pictures.
    """

    name: str  # [a-zA-Z0-9_-]{1,64}, OpenAI's rule
    description: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    read_only: bool = True
    cost: Literal["light", "heavy"] = "light"
    seconds: float = 10.0
    weights: Weights | None = None
    server: str = ""  # that offers it; empty: ours


@dataclass(frozen=True)
class Call:
    """A call the model made: the function's name and its arguments as JSON text."""

    name: str
    arguments: str
    id: str = ""  # who runs calls gives them one


@dataclass(frozen=True)
class Result:
    """What came of a call: a value as JSON has them and names of pictures it made; or an error, never both."""

    call: Call
    value: Json = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    error: str | None = None
    unavailable: bool = False  # with an error: the tool was not to be had, and another try may help
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """As a model reads it."""
        if self.error is not None:
            return f"Error: {self.error}"
        said = dict(self.value) | ({PICTURES: list(self.pictures)} if self.pictures else {})
        return json.dumps(said, ensure_ascii=False, allow_nan=False)


def read_arguments(call: Call) -> Json:
    """The arguments; none at all are `{}`. ToolError for what is no JSON object."""
    try:
        found = json.loads(call.arguments.strip() or "{}", parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments of {call.name} are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ToolError(f"the arguments of {call.name} must be a JSON object, not {type(found).__name__}")
    return found


def refuse_constant(constant: str) -> None:
    """For `json.loads(parse_constant=...)`: NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is not JSON")
