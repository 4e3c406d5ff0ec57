"""Rows of the new file: LLaVA's records or LLaVA-RLHF's pairs, each with its origin; and the same as Parquet."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llavakit.align.rollouts import file_media
from llavakit.core.errors import ConfigError
from llavakit.core.files import draft_of
from llavakit.data.dialects.llava import write_llava
from llavakit.data.dialects.preferences import write_rlhf
from llavakit.data.records import Record, read_records
from llavakit.synth.draft import Draft
from llavakit.synth.items import Item
from llavakit.text.conversation import Conversation, Medium, Message, Part, Text, assistant

FIELD = "synth"
BUNCH = 1000  # rows that are in memory while a table is written


def make_row(
    name: str, item: Item, draft: Draft, after: bool, origin: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """The record of a draft for the file `out`, read once as training will. DataError for what cannot be said.

    `after`: the media stand behind the first question. A picture that is bytes becomes a file in `media/`.
    """
    talk = file_media(_talk(draft, item.media if draft.media is None else draft.media, after), out.parent)
    rest = {**draft.extra, FIELD: dict(origin)}
    if draft.rejected is None:
        row = {"id": name, **write_llava(talk, out.parent), **rest}
        Record(row, out, 0, out.parent).conversation()
        return row
    worse = Conversation((*talk.messages[:-1], assistant(draft.rejected)))
    row = {"id": name, **write_rlhf(talk, worse, out.parent, rest)}
    Record(row, out, 0, out.parent).pair()
    return row


def _talk(draft: Draft, media: Sequence[Medium], after: bool) -> Conversation:
    messages: list[Message] = []
    for number, turn in enumerate(draft.turns):
        parts: list[Part] = [Text(turn.question)]
        if number == 0 and media:
            behind = [part for medium in media for part in (Text("\n"), medium)]
            before = [part for medium in media for part in (medium, Text("\n"))]
            parts = [*parts, *behind] if after else [*before, *parts]
        messages += [Message("user", tuple(parts)), assistant(turn.answer)]
    return Conversation(tuple(messages))


class RowFile:
    """A file of JSON lines that takes its name when it is published. A disk that is full leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._draft = draft_of(path)
        self._size = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, or raise OSError with the rows before it intact."""
        data = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size = self._file.tell()
        self.count += 1

    def publish(self, *, whole: bool) -> bool:
        """Take the place of the file, and say so. Half of a run does not take that of one with more rows."""
        if not whole and self.path.exists() and _lines(self.path) >= self.count:
            return False
        os.fsync(self._file.fileno())
        self._draft.replace(self.path)
        return True


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def write_parquet(path: Path) -> Path:
    """The rows of a file of ours as a table beside it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("--parquet needs pyarrow: pip install 'llavakit[data]'") from None
    out = path.with_suffix(".parquet")
    records = read_records(path)
    rows = [records[index].raw for index in range(min(BUNCH, len(records)))]
    schema = pyarrow.Table.from_pylist(rows).schema
    draft = draft_of(out)
    try:
        with pyarrow.parquet.ParquetWriter(draft, schema) as writer:
            for at in range(0, len(records), BUNCH):
                bunch = [records[index].raw for index in range(at, min(at + BUNCH, len(records)))]
                writer.write_table(pyarrow.Table.from_pylist(bunch, schema=schema))
        draft.replace(out)
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: its rows are no table: {str(error).splitlines()[0]}") from None
    finally:
        draft.unlink(missing_ok=True)
    return out
