"""The dialects, in the order in which a record is held against their shapes: the first that fits reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.alpaca import is_alpaca, read_alpaca
from llavakit.data.dialects.llava import is_llava, read_llava, write_llava
from llavakit.data.dialects.llava_plus import is_llava_plus, read_llava_plus
from llavakit.data.dialects.messages import is_messages, read_messages, write_messages
from llavakit.data.dialects.messages_images import is_messages_images, read_messages_images
from llavakit.data.dialects.query_response import is_query_response, read_query_response
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.sharegpt import is_sharegpt, read_sharegpt, write_sharegpt
from llavakit.data.dialects.texts import is_texts, read_texts
from llavakit.data.dialects.trl import is_trl, read_trl, write_trl
from llavakit.text.conversation import Conversation


@dataclass(frozen=True)
class Dialect:
    """A way to write a conversation as a record."""

    name: str
    fits: Callable[[dict[str, Any]], bool]
    read: Callable[[Reader], Conversation]
    write: Callable[[Conversation, Path], dict[str, Any]] | None = None  # a record of a file in this folder


DIALECTS = (
    Dialect("llava-plus", is_llava_plus, read_llava_plus),
    Dialect("sharegpt", is_sharegpt, read_sharegpt, write_sharegpt),
    Dialect("llava", is_llava, read_llava, write_llava),
    Dialect("messages-images", is_messages_images, read_messages_images),
    Dialect("messages", is_messages, read_messages, write_messages),
    Dialect("trl", is_trl, read_trl, write_trl),
    Dialect("alpaca", is_alpaca, read_alpaca),
    Dialect("query-response", is_query_response, read_query_response),
    Dialect("texts", is_texts, read_texts),
)


def recognise(raw: dict[str, Any]) -> Dialect:
    """The dialect of a record. DataError, with the names of the fields that are there, where there is none."""
    for dialect in DIALECTS:
        if dialect.fits(raw):
            return dialect
    fields = shorten(", ".join(map(repr, raw)), 300) or "none"
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise DataError(f"a record of no dialect that is known ({known}): its fields are {fields}")
