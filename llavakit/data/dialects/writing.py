"""What writers of dialects share: media as the paths of a file, and what cannot be said."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.text.conversation import Conversation, Image, Medium, Message, Part, Text, Video

PLACEHOLDERS = {Image: "<image>", Video: "<video>"}


def path_of(medium: Medium, folder: Path) -> str:
    """A medium's path as a file in `folder` writes it: relative if it lies below, else whole."""
    if not isinstance(medium.source, Path):
        raise DataError(
            "a picture or video that is bytes or a list of frames has no path (`messages` takes bytes)"
        )
    return relative_to(medium.source, folder)


def relative_to(path: Path, folder: Path) -> str:
    whole, base = path.absolute(), folder.absolute()
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)


def text_with_placeholders(message: Message, video: str = "<video>") -> str:
    """The text with `<image>`, or `video`, in the place of each medium."""
    marks = PLACEHOLDERS | {Video: video}
    return "".join(part.text if isinstance(part, Text) else marks[type(part)] for part in message.parts)


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbouring texts as one, and without empty ones."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part.text)
        elif part != Text(""):
            out.append(part)
    return out


def refuse_weights(talk: Conversation) -> None:
    if any(message.weight != 1 for message in talk.messages):
        raise DataError("it has no weights, and an answer does not count 1")


def comparable(talk: Conversation) -> list[Any]:
    """What two conversations are compared by: neighbouring texts are one, and paths are whole."""
    return [
        (message.role, message.weight, [_whole(part) for part in joined(message.parts)])
        for message in talk.messages
    ]


def _whole(part: Part) -> Any:
    if isinstance(part, Video) and isinstance(part.source, tuple):
        return [_whole(Image(frame)) for frame in part.source]
    if isinstance(part, Text) or not isinstance(part.source, Path):
        return part
    return type(part), part.source.absolute()
