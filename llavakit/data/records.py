"""Records: one entry of a LLaVA data file, checked, with the file and line it came from.

The format is LLaVA's: `{"id", "image": path or list (optional), "video": path or list (optional),
"conversations": [{"from", "value"}, ...]}`, in JSON, JSON lines, Parquet, a saved data set or a tar file. `<image>`
in a human's value marks where an image or a video stands (released data has one mark for a whole video); `<video>`
marks a video too.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from llavakit.core.errors import DataError, FlawKind
from llavakit.data.dialects import unify
from llavakit.data.index import Rows, TextRows, Unreadable
from llavakit.data.shards import ShardRows
from llavakit.data.tables import HUB, ArrowRows, HubRows, ParquetRows
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

IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER = re.compile("<image>"), re.compile("<image>|<video>")
ADVICE = "; fix the record or set data.on_bad=skip"  # the end of a record's error
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the file. `conversation()` checks it and makes it a conversation."""

    raw: Any
    path: Path
    line: int  # or the number of the row or sample, in files without lines
    folder: Path  # where relative image paths start

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, what: str, kind: FlawKind = "record") -> DataError:
        return DataError(f"{what}{ADVICE}", path=self.path, line=self.line, kind=kind)

    def conversation(self) -> Conversation:
        """The record's messages with its images in place. Raises DataError, with file:line, on any flaw.

        A leading answer (as in ShareGPT data) is dropped, as the released training code does.
        """
        if isinstance(self.raw, Unreadable):
            raise self.error(self.raw.problem)
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
        placeholder = (
            VIDEO_PLACEHOLDER if any(isinstance(part, Video) for part in media) else IMAGE_PLACEHOLDER
        )
        messages: list[Message] = []
        used = 0
        for number, turn in enumerate(turns):
            role, value = self._turn(number, turn)
            if role == "assistant" and not messages:
                continue
            if role == "assistant":
                messages.append(Message(role, (Text(value),)))
                continue
            texts = placeholder.split(value)
            messages.append(Message(role, _interleave(texts, media[used:])))
            used += len(texts) - 1
        if used != len(media):
            what = " and video(s)" if any(isinstance(part, Video) for part in media) else ""
            raise self.error(
                f"{used} {IMAGE_TOKEN} placeholder(s) in the text but {len(media)} image(s){what} listed",
                "placeholders",
            )
        return Conversation(tuple(messages))

    def _media(self) -> list[Medium]:
        images, videos = self._sources("image"), self._sources("video")
        if images and videos:
            # Their placeholders look alike, so nothing says which stands where.
            raise self.error("a record has either 'image' or 'video'; split it, or give the frames as images")
        return [*map(Image, images), *map(Video, videos)]

    def _sources(self, name: str) -> list[Path | bytes]:
        listed = self.raw.get(name)
        if listed is None:  # exported data says null where there is none
            return []
        sources = [self._source(cell) for cell in (listed if isinstance(listed, list) else [listed])]
        if None in sources:
            raise self.error(f"'{name}' must be a path or a list of paths (in a table or archive also bytes)")
        return [source for source in sources if source is not None]

    def _source(self, cell: Any) -> Path | bytes | None:
        """A path, bytes, or the two as `datasets` stores them; None for anything else."""
        if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}:
            cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
        if isinstance(cell, str) and cell:
            return self.folder / cell
        return cell if isinstance(cell, bytes) and cell else None

    def _turn(self, number: int, turn: Any) -> tuple[Role, str]:
        where = f"conversations[{number}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise self.error(f"{where} must have the texts 'from' and 'value'")
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise self.error(f"{where}.from is {speaker!r}; valid: {', '.join(ROLES)}")
        if ROLES[speaker] == "assistant" and not turn["value"].strip():
            raise self.error(f"{where}.value is an empty answer", "answer")
        if any("\ud800" <= letter <= "\udfff" for letter in turn["value"]):
            raise self.error(f"{where}.value holds half a character (a lone surrogate)")
        return ROLES[speaker], turn["value"]


class Records(Sequence[Record]):
    """The records of one file. Each is read when it is asked for; an unreadable one fails when it is used."""

    def __init__(self, rows: Rows, path: Path, folder: Path) -> None:
        self.rows, self.path, self.folder = rows, path, folder

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return Record(self.rows.raw(index), self.path, self.rows.line(index), self.folder)

    def digest(self) -> str:
        """Another one when records were added, dropped or moved. Of text: of its index and some of its entries."""
        if isinstance(self.rows, TextRows):
            return self.rows.digest()
        size = self.path.stat().st_size if self.path.is_file() else 0
        return hashlib.sha256(f"{len(self)} {size}".encode()).hexdigest()

    def at_line(self, line: int) -> Record | None:
        """The record that covers a line: the last one that begins there or before."""
        count = bisect_right(range(len(self)), line, key=self.rows.line)
        return self[count - 1] if count else None


def read_records(path: Path, folder: Path | None = None) -> Records:
    """The records of a file or data set of any known kind. `folder` defaults to the one the file lies in.

    `.parquet` and `.tar` are told by their ending, `hf:NAME[:SPLIT]` by its beginning; a directory is one that
    `datasets` saved; anything else is a JSON list or JSON lines. What cannot be split into records at all is a
    DataError here; a record that cannot be read, as one that is not JSON, fails when it is used.
    """
    base = path.parent if folder is None else folder
    if str(path).startswith(HUB):
        return Records(HubRows(path), path, Path() if folder is None else folder)
    if not path.exists():
        raise DataError("data file not found", path=path)
    if path.is_dir():
        return Records(ArrowRows(path), path, base)
    if path.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".gz", ".zip")):
        raise DataError(
            "packed files cannot be read at random; unpack it first (a plain .tar is fine)", path=path
        )
    kinds: dict[str, type[ParquetRows | ShardRows]] = {".parquet": ParquetRows, ".tar": ShardRows}
    return Records(kinds.get(path.suffix.lower(), TextRows)(path), path, base)


def _interleave(texts: list[str], media: list[Medium]) -> tuple[Part, ...]:
    """text, image, text, ... without empty texts; the caller counts placeholders that have no image."""
    parts: list[Part] = []
    for number, text in enumerate(texts):
        if 0 < number <= len(media):
            parts.append(media[number - 1])
        if text:
            parts.append(Text(text))
    return tuple(parts)
