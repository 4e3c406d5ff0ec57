"""Records: one entry of a LLaVA data file, checked, with the file and line it came from.

The format is LLaVA's: `{"id", "image": path or list (optional), "video": path or list (optional),
"conversations": [{"from", "value"}, ...]}`, as a JSON list or one object per line. `<image>` in a human's value
marks where an image or a video stands (released data has one mark for a whole video); `<video>` marks a video too.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects import unify
from llavakit.text.conversation import (
    IMAGE_TOKEN,
    Conversation,
    Image,
    Medium,
    Message,
    Part,
    Role,
    Text,
    Video,
)

IMAGE_MARK, VIDEO_MARK = re.compile("<image>"), re.compile("<image>|<video>")
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class NotJson:
    """Stands in a record for a line that could not be parsed."""

    problem: str


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the file. `conversation()` checks it and makes it a conversation."""

    raw: Any
    path: Path
    line: int
    folder: Path  # where relative image paths start

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, what: str) -> DataError:
        return DataError(f"{what}; fix the record or set data.on_bad=skip", path=self.path, line=self.line)

    def conversation(self) -> Conversation:
        """The record's messages with its images in place. Raises DataError, with file:line, on any flaw.

        A leading answer (as in ShareGPT data) is dropped, as the released training code does.
        """
        if isinstance(self.raw, NotJson):
            raise self.error(f"not JSON: {self.raw.problem}")
        if not isinstance(self.raw, dict):
            raise self.error(f"a record must be an object, found {type(self.raw).__name__}")
        try:
            plain = unify(self.raw)
        except ValueError as error:
            raise self.error(str(error)) from None
        if plain is not self.raw:
            return replace(self, raw=plain).conversation()
        turns = self.raw.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise self.error("'conversations' must be a non-empty list")
        media = self._media()
        marks = VIDEO_MARK if any(isinstance(part, Video) for part in media) else IMAGE_MARK
        messages: list[Message] = []
        used = 0
        for number, turn in enumerate(turns):
            role, value = self._turn(number, turn)
            if role == "assistant" and not messages:
                continue
            if role == "assistant":
                messages.append(Message(role, (Text(value),)))
                continue
            texts = marks.split(value)
            messages.append(Message(role, _interleave(texts, media[used:])))
            used += len(texts) - 1
        if used != len(media):
            what = " and video(s)" if any(isinstance(part, Video) for part in media) else ""
            raise self.error(
                f"{used} {IMAGE_TOKEN} placeholder(s) in the text but {len(media)} image(s){what} listed"
            )
        return Conversation(tuple(messages))

    def _media(self) -> list[Medium]:
        images, videos = self._paths("image"), self._paths("video")
        if images and videos:
            # Their placeholders look alike, so nothing says which stands where.
            raise self.error("a record has either 'image' or 'video'; split it, or give the frames as images")
        return [*map(Image, images), *map(Video, videos)]

    def _paths(self, name: str) -> list[Path]:
        listed = self.raw.get(name)
        if listed is None:  # exported data says null where there is none
            return []
        paths = [listed] if isinstance(listed, str) else listed
        if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
            raise self.error(f"'{name}' must be a path or a list of paths")
        return [self.folder / path for path in paths]

    def _turn(self, number: int, turn: Any) -> tuple[Role, str]:
        where = f"conversations[{number}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise self.error(f"{where} must have the texts 'from' and 'value'")
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise self.error(f"{where}.from is {speaker!r}; valid: {', '.join(ROLES)}")
        if ROLES[speaker] == "assistant" and not turn["value"].strip():
            raise self.error(f"{where}.value is an empty answer")
        if any("\ud800" <= letter <= "\udfff" for letter in turn["value"]):
            raise self.error(f"{where}.value holds half a character (a lone surrogate)")
        return ROLES[speaker], turn["value"]


def read_records(path: Path, folder: Path | None = None) -> list[Record]:
    """All records of a JSON list or a JSONL file. `folder` defaults to the file's own folder.

    A line of JSONL that is not JSON becomes a record that fails when it is used, so that `on_bad=skip` can list
    it; a JSON list that is not JSON cannot be read at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise DataError("data file not found", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from None
    base = path.parent if folder is None else folder
    entries = _json_list(text, path) if text.lstrip()[:1] == "[" else _json_lines(text)
    return [Record(raw, path, line, base) for line, raw in entries]


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold U+2028
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            yield number, NotJson(f"{error.msg} (column {error.colno})")


def _json_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON list with the line each begins on."""
    decoder = json.JSONDecoder()
    newlines = [at for at, letter in enumerate(text) if letter == "\n"]
    at = text.index("[") + 1
    while True:
        at = _skip_blanks(text, at)
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip():
                line = bisect_right(newlines, _skip_blanks(text, at + 1)) + 1
                raise DataError("not JSON: something follows the list", path=path, line=line)
            return
        line = bisect_right(newlines, at) + 1
        try:
            raw, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(
                f"not JSON: {error.msg} (column {error.colno})", path=path, line=error.lineno
            ) from None
        yield line, raw
        at = _skip_blanks(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            line = bisect_right(newlines, at) + 1
            raise DataError("not JSON: expected ',' or ']' after a record", path=path, line=line)


def _skip_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _interleave(texts: list[str], media: list[Medium]) -> tuple[Part, ...]:
    """text, image, text, ... without empty texts; the caller counts placeholders that have no image."""
    parts: list[Part] = []
    for number, text in enumerate(texts):
        if 0 < number <= len(media):
            parts.append(media[number - 1])
        if text:
            parts.append(Text(text))
    return tuple(parts)
