"""Records: one entry of a data file, checked, with the file and line it came from.

Files are JSON, JSON lines, Parquet, a saved data set or a tar file. How an entry spells a conversation is its
dialect (`dialects/table.py`).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from llavakit.core.errors import DataError, FlawKind
from llavakit.data.dialects.judged import Verdict, settle
from llavakit.data.dialects.kto import is_kto, split_kto
from llavakit.data.dialects.pair_table import PAIR_DIALECTS, PairDialect, recognise_pair
from llavakit.data.dialects.reader import Reader
from llavakit.data.dialects.table import Dialect, recognise
from llavakit.data.dialects.unread import refuse_unread
from llavakit.data.index import Rows, TextRows, Unreadable
from llavakit.data.shards import Members, Packed, ShardRows
from llavakit.data.tables import HUB, ArrowRows, HubRows, ParquetRows
from llavakit.data.votes import SUFFIX, VoteRows
from llavakit.text.conversation import Conversation, learn_last_answer

# What other people's data make libraries raise, besides DataError: of one record, it is that record's flaw.
FAULTS = (OSError, ValueError, OverflowError, RecursionError)
ADVICE = "; fix the record or set data.on_bad=skip"  # the end of a record's error


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the file. `conversation()` checks it and makes it a conversation."""

    raw: Any
    path: Path
    line: int  # or the number of the row or sample, in files without lines
    folder: Path  # where relative image paths start
    members: Members | None = None  # in an archive: the files it may show instead
    unread: frozenset[str] = frozenset()  # fields and placeholders that are passed over on purpose

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, what: str, kind: FlawKind = "record") -> DataError:
        return DataError(f"{what}{ADVICE}", path=self.path, line=self.line, kind=kind)

    def blame(self, error: Exception) -> DataError:
        """The error that reading or encoding raised, as this record's: a DataError or one of FAULTS."""
        if isinstance(error, DataError):
            return self.error(error.what, error.kind)
        return self.error(f"cannot be read: {type(error).__name__}: {error}")

    def dialect(self) -> Dialect:
        """How it spells a conversation. DataError, with file:line, if no dialect fits."""
        raw = self._object()
        try:
            return recognise(raw)
        except DataError as error:
            pair = next((each.name for each in PAIR_DIALECTS if each.fits(raw)), None)
            if pair is None:
                raise self.error(error.what) from None
            raise self.error(
                f"a pair of answers ({pair}), for dpo, kto and reward, and no conversation"
            ) from None

    def conversation(self) -> Conversation:
        """The record's messages with its images in place. Raises DataError, with file:line, on any flaw."""
        return self.read()[0]

    def read(self) -> tuple[Conversation, dict[str, Any]]:
        """The conversation, and the fields beside it that are no part of it, as `id`."""
        dialect = self.dialect()
        reader = Reader(self.raw, self.folder, self.members)
        try:
            talk = dialect.read(reader)
            refuse_unread(reader, talk, dialect.name, self.unread)
            answers = [message for message in talk.messages if message.role == "assistant"]
            if answers and not any(message.weight for message in answers):
                raise DataError("no answer is learned: all of them count 0", kind="answer")
        except (DataError, *FAULTS) as error:
            raise self.blame(error) from None
        return talk, reader.top.left()

    def pair_dialect(self) -> PairDialect:
        """How it spells a pair. DataError, with file:line, if no dialect fits."""
        raw = self._object()
        try:
            return recognise_pair(raw)
        except DataError as error:
            what = "a single answer with a label, for kto, and no pair" if is_kto(raw) else error.what
            raise self.error(what, error.kind) from None

    def alternatives(self) -> "Alternatives":
        """One prompt with two answers, and which is better if that is known. DataError on any flaw."""
        dialect = self.pair_dialect()
        try:
            judged = dialect.split(self.raw)
        except DataError as error:
            raise self.error(error.what, error.kind) from None
        halves = [replace(self, raw=half) for half in (judged.first, judged.second)]
        read = [half.read() for half in halves]
        first, second = (learn_last_answer(talk) for talk, _ in read)
        if first.messages[:-1] != second.messages[:-1]:
            raise self.error("the two answers do not belong to one prompt")
        if first.messages[-1].text.strip() == second.messages[-1].text.strip():
            raise self.error("chosen and rejected are equal", "answer")
        return Alternatives(first, second, judged.verdicts, read[0][1])

    def pair(self) -> tuple[Conversation, Conversation]:
        """(chosen, rejected): one prompt with two answers, which alone are learned. DataError on any flaw."""
        return self.choose(self.alternatives())

    def choose(self, found: "Alternatives") -> tuple[Conversation, Conversation]:
        """(chosen, rejected) of its two answers. DataError where none is better."""
        if found.verdict not in (1, 2):
            raise self.error(*found.undecided)
        return (found.first, found.second) if found.verdict == 1 else (found.second, found.first)

    def judged(self) -> list[tuple[Conversation, bool]]:
        """Answers to one prompt, each with whether it is wanted: of a KTO record one, of a pair two."""
        raw = self._object()
        if is_kto(raw):
            half, wanted = split_kto(raw)
            return [(learn_last_answer(replace(self, raw=half).conversation()), wanted)]
        found = self.alternatives()
        if found.verdict in (None, "tie"):
            raise self.error(*found.undecided)
        return [(found.first, found.verdict == 1), (found.second, found.verdict == 2)]

    def _object(self) -> dict[str, Any]:
        if isinstance(self.raw, Unreadable):
            raise self.error(self.raw.problem)
        if not isinstance(self.raw, dict):
            raise self.error(f"a record must be an object, found {type(self.raw).__name__}")
        return self.raw


@dataclass(frozen=True)
class Alternatives:
    """Two answers to one prompt."""

    first: Conversation
    second: Conversation
    verdicts: tuple[Verdict | None, ...]  # what people said, as in Judged
    rest: dict[str, Any]  # the fields beside them, as `id`

    @property
    def verdict(self) -> Verdict | None:
        """What most of them said."""
        return settle(self.verdicts)

    @property
    def undecided(self) -> tuple[str, FlawKind]:
        """Why there is no better one: in words, and whether people meant it."""
        if not self.verdicts:
            return "it does not say which of the two answers is better", "record"
        if self.verdict is None:
            agreed = all(verdict is None for verdict in self.verdicts)
            return "it was skipped" if agreed else "the annotators do not agree", "undecided"
        return f"no answer is better: {'a tie' if self.verdict == 'tie' else 'both are bad'}", "undecided"


class Records(Sequence[Record]):
    """The records of one file. Each is read when it is asked for; an unreadable one fails when it is used."""

    def __init__(self, rows: Rows, path: Path, folder: Path, unread: frozenset[str] = frozenset()) -> None:
        self.rows, self.path, self.folder, self.unread = rows, path, folder, unread

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
        raw, members = self.rows.raw(index), None
        if isinstance(raw, Packed):
            raw, members = raw.record, raw.members
        return Record(raw, self.path, self.rows.line(index), self.folder, members, self.unread)

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


def read_records(path: Path, folder: Path | None = None, unread: frozenset[str] = frozenset()) -> Records:
    """The records of a file or data set of any known kind. `folder` defaults to the one the file lies in.

    `unread` are fields and placeholders that look as if they should be read and are passed over on purpose.

    `.parquet`, `.tar` and `.votes` are told by their ending, `hf:NAME[:SPLIT]` by its beginning; a directory is one
    that `datasets` saved; anything else is a JSON list or JSON lines. What cannot be split into records at all is a
    DataError here; a record that cannot be read, as one that is not JSON, fails when it is used.
    """
    base = path.parent if folder is None else folder
    if str(path).startswith(HUB):
        return Records(HubRows(path), path, Path() if folder is None else folder, unread)
    if not path.exists():
        raise DataError("data file not found", path=path)
    if path.is_dir():
        return Records(ArrowRows(path), path, base, unread)
    if path.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".gz", ".zip")):
        raise DataError(
            "packed files cannot be read at random; unpack it first (a plain .tar is fine)", path=path
        )
    kinds: dict[str, type[ParquetRows | ShardRows | VoteRows]] = {
        ".parquet": ParquetRows, ".tar": ShardRows, SUFFIX: VoteRows,
    }  # fmt: skip
    return Records(kinds.get(path.suffix.lower(), TextRows)(path), path, base, unread)
