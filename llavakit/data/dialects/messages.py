"""OpenAI's `messages` of `role` and `content`: a text, or parts of text, pictures and videos.

A part's medium (`{"type": "image_url", "image_url": {"url": ...}}`) is a path, file:// or a data URL; the spelling
of Hugging Face (`{"type": "image", "image": ...}`) is read too. A part without any takes the next of its list.
`weight` (OpenAI), `loss` (ms-swift) and `train` (Axolotl) say what an answer counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, shorten
from llavakit.data.dialects.reader import Fields, Reader
from llavakit.data.dialects.turns import (
    Placeholder,
    Turn,
    compose_listed,
    role_of,
    text_of,
    weight_of,
    with_system,
)
from llavakit.data.dialects.writing import joined, path_of
from llavakit.text.conversation import Conversation, Image, Medium, Part, Text
from llavakit.vision.data_url import encode_data_url
from llavakit.vision.kinds import Sort, kind_of

TALK = "messages"
TEXTS = ("text", "input_text", "output_text")
SORTS: dict[str, Sort] = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "video_url": "video",
    "video": "video",
    "input_video": "video",
}
PLACES: dict[Sort, tuple[str, ...]] = {
    "image": ("image_url", "image", "url", "path"),
    "video": ("video_url", "video", "url", "path"),
}


def is_messages(raw: dict[str, Any]) -> bool:
    return TALK in raw


def read_messages(reader: Reader) -> Conversation:
    """The conversation; a sample of an archive whose parts name no medium shows all that it has."""
    turns = with_system(message_turns(reader, reader.objects(TALK)), reader.top)
    if reader.num_media:
        return compose_listed(turns, (), ())
    return compose_listed(turns, reader.images("images"), reader.videos("videos"))


def write_messages(talk: Conversation, folder: Path) -> dict[str, Any]:
    """A record of the conversation for a file in `folder`. DataError for what the format cannot say."""
    messages: list[dict[str, Any]] = []
    for message in talk.messages:
        parts = [_write_part(part, folder) for part in joined(message.parts)]
        messages.append({"role": message.role, "content": parts if message.media else message.text})
        if message.weight != 1:
            messages[-1]["weight"] = message.weight
    return {TALK: messages}


def _write_part(part: Part, folder: Path) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    sort: Sort = "image" if isinstance(part, Image) else "video"
    if isinstance(part.source, bytes):
        media_type = kind_of(part.source, sort) or "application/octet-stream"
        url = encode_data_url(part.source, media_type)
    else:
        url = path_of(part, folder)
    return {"type": f"{sort}_url", f"{sort}_url": {"url": url}}


def message_turns(reader: Reader, messages: Sequence[Fields]) -> list[Turn]:
    """The turns of objects with `role` and `content`."""
    return [_read_message(reader, fields) for fields in messages]


def _read_message(reader: Reader, fields: Fields) -> Turn:
    role = role_of(fields, "role")
    for name in ("tool_calls", "function_call"):
        if fields.get(name):
            raise DataError(
                f"{fields.at(name)}: calls of tools and their results are not read", kind="unread"
            )
    weight = weight_of(fields, role)
    content = fields.get("content")
    if isinstance(content, list):
        pieces = _read_parts(reader, fields, content)
        text_of(fields, "content", Turn(role, pieces).text, role)
        return Turn(role, pieces, weight)
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise DataError(f"{fields.at('content')} must be a text or a list of parts")
    return Turn(role, (text_of(fields, "content", content, role),), weight)


def _read_parts(
    reader: Reader, message: Fields, content: list[Any]
) -> tuple[str | Medium | Placeholder, ...]:
    """The parts in order; texts that follow each other are a line apart, as in the server."""
    pieces: list[str | Medium | Placeholder] = []
    for number, raw in enumerate(content):
        part = reader.fields(raw, f"{message.at('content')}[{number}]")
        kind = part.get("type")
        if kind in TEXTS:
            text = part.get("text")
            if not isinstance(text, str):
                raise DataError(f"{part.at('text')} must be a text")
            pieces += ["\n", text] if pieces and isinstance(pieces[-1], str) else [text]
        elif isinstance(kind, str) and kind in SORTS:
            pieces.append(_read_medium(reader, part, SORTS[kind]))
        else:
            known = ", ".join((*TEXTS, *SORTS))
            raise DataError(
                f"{part.at('type')} is {shorten(repr(kind))}, which is not read; known: {known}",
                kind="unread",
            )
    return tuple(pieces)


def _read_medium(reader: Reader, part: Fields, sort: Sort) -> Medium | Placeholder:
    name, cell = next(
        ((name, value) for name in PLACES[sort] if (value := part.get(name)) is not None), ("", None)
    )
    if cell is None:
        return Placeholder(sort)
    if isinstance(cell, dict) and "url" in cell:
        cell = cell["url"]
    return reader.image(cell, part.at(name)) if sort == "image" else reader.video(cell, part.at(name))
