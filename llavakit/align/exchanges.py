"""Answers of several turns: what the model said before the last one, and what came back each time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.writing import joined, path_of
from llavakit.text.conversation import Image, Message, Part, Text

# What is counted of an answer that may call tools: calls, those that gave something, and those that gave an error.
CALLS, USED, FAILED = COUNTS = ("calls", "calls_used", "calls_failed")


@dataclass(frozen=True)
class Exchange:
    """A turn of the model that was not its last, and the user's turn that followed: results of tools, say."""

    tokens: int  # of the answer's own tokens, those that this turn had
    text: str  # what they read
    reply: Message  # read by the model, and never learned


def write_exchange(exchange: Exchange, folder: Path) -> dict[str, Any]:
    """JSON for a file in `folder`. DataError for a picture that has no path."""
    parts = [
        part.text if isinstance(part, Text) else {"image": path_of(part, folder)}
        for part in joined(exchange.reply.parts)
    ]
    return {"tokens": exchange.tokens, "text": exchange.text, "reply": parts}


def read_exchange(said: Any, folder: Path) -> Exchange:
    """What `write_exchange` wrote. DataError for anything else."""
    match said:
        case {"tokens": int(tokens), "text": str(text), "reply": list(parts)} if (
            tokens > 0 and len(said) == 3
        ):
            return Exchange(tokens, text, Message("user", tuple(_read_part(part, folder) for part in parts)))
    raise DataError("an exchange is an object of tokens, text and reply")


def _read_part(part: Any, folder: Path) -> Part:
    match part:
        case str(text):
            return Text(text)
        case {"image": str(path)} if len(part) == 1:
            return Image(folder / path)
    raise DataError("a part of a reply is a text, or an object with an image")
