"""Where every record of a JSON or JSONL file begins and ends, found without parsing: a file of any size opens fast.

One pass over the bytes marks the commas between the entries of a list (or the line ends). What is kept is 24 bytes
a record; a record is parsed when it is read. A large file's index is kept on disk and mapped, so that all processes
of a machine share one copy of it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llavakit.core.errors import DataError

CHUNK = 1 << 20  # bytes looked at in one step; what is made of them fits the processor's cache
DIGESTED = 256  # entries that are part of a digest
KEEP_FROM = 1 << 26  # the index of a file this large is kept on disk
QUOTE, OPEN, CLOSE, COMMA = 1, 2, 3, 4
KIND = np.zeros(256, dtype=np.uint8)
KIND[[ord(letter) for letter in '"{}[],']] = [QUOTE, OPEN, CLOSE, OPEN, CLOSE, COMMA]
STEP = np.array([0, 0, 1, -1, 0])  # what each kind does to the depth
BACKSLASH, NEWLINE = ord("\\"), ord("\n")
BLANKS = b" \t\r\n"
NOT_BLANK = re.compile(rb"[^ \t\r\n]")
MARK = b"\xef\xbb\xbf"  # some editors begin a file with a byte order mark


@dataclass(frozen=True)
class Unreadable:
    """Stands in a record for an entry that could not be read at all."""

    problem: str


class Rows(Protocol):
    """Entries of a file by number, as they stand in it."""

    def __len__(self) -> int: ...

    def raw(self, index: int) -> Any:
        """The parsed entry, or Unreadable."""

    def line(self, index: int) -> int:
        """Where it stands: the line it begins on, or its number from 1 where a file has no lines."""


class TextRows:
    """The entries of a JSON list or of JSON lines. A file that cannot be split into entries is a DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (self._spans_N3,) = keep_arrays(path, _text_spans, 1)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path=path) from None

    def __len__(self) -> int:
        return len(self._spans_N3)

    def line(self, index: int) -> int:
        return int(self._spans_N3[index, 2])

    def raw(self, index: int) -> Any:
        start, end, line = (int(number) for number in self._spans_N3[index])
        entry = read_span(self.path, start, end)
        return entry if isinstance(entry, Unreadable) else parse_entry(entry, line)

    def digest(self) -> str:
        """Of the index and of some entries: records that were added, dropped, moved or changed in length show."""
        digest = hashlib.sha256(self._spans_N3.tobytes())
        for index in np.linspace(0, len(self) - 1, min(len(self), DIGESTED), dtype=np.int64):
            digest.update(repr(read_span(self.path, *self._spans_N3[index, :2].tolist())).encode())
        return digest.hexdigest()


def cache_folder() -> Path:
    """Where indexes are kept: LLAVAKIT_CACHE, else `llavakit` in the user's cache folder."""
    if "LLAVAKIT_CACHE" in os.environ:
        return Path(os.environ["LLAVAKIT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llavakit"


def index_text(path: Path, chunk: int = CHUNK) -> np.ndarray:
    """int64[N, 3]: first byte, end and line of every entry of a JSON list, or of every line that is not blank.

    Objects that are written over several lines, one after the other, are an entry each.
    """
    first = next((found[0] for block in _blocks(path, chunk) if (found := NOT_BLANK.search(block))), b"")
    with path.open("rb") as file:
        head = file.read(CHUNK).removeprefix(MARK).lstrip(BLANKS)
    if first == b"[" or (first == MARK[:1] and head[:1] == b"["):
        return _index_list(path, chunk)
    spans_N3 = _index_objects(path, chunk) if _goes_on(head) else None
    return _index_lines(path, chunk) if spans_N3 is None else spans_N3


def _goes_on(head: bytes) -> bool:
    """Whether an object begins here and is not closed where its first line ends."""
    line, newline, _ = head.partition(b"\n")
    marks = _Marks()
    marks.scan(np.frombuffer(line, dtype=np.uint8))
    return bool(newline) and line[:1] == b"{" and marks.is_open


def keep_arrays(
    path: Path, make: Callable[[Path], tuple[np.ndarray, ...]], count: int
) -> tuple[np.ndarray, ...]:
    """The `count` arrays that `make` finds in a file, mapped from the cache if the file is large.

    A cache that cannot be written is done without.
    """
    facts = path.stat()
    if facts.st_size < KEEP_FROM:
        return make(path)
    what = f"3 {make.__name__} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    folder = cache_folder() / "index"
    kept = [folder / f"{key}.{number}.npy" for number in range(count)]
    with suppress(OSError, ValueError):  # missing, or cut by a full disk
        return tuple(np.load(file, mmap_mode="r") for file in kept)
    arrays = make(path)
    with suppress(OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
        for file, array in zip(kept, arrays, strict=True):
            draft = file.with_name(f".{file.stem}.{os.getpid()}.npy")
            np.save(draft, array)
            draft.replace(file)
        return tuple(np.load(file, mmap_mode="r") for file in kept)
    return arrays


def _text_spans(path: Path) -> tuple[np.ndarray]:
    return (index_text(path),)


def _blocks(path: Path, chunk: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(chunk):
            yield block


def read_span(path: Path, start: int, end: int) -> bytes | Unreadable:
    """These bytes of a file, or fewer where it has become shorter."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(end - start) or b""
    except OSError as error:
        return Unreadable(f"cannot be read: {error.strerror}")


def parse_entry(entry: bytes, line: int = 1) -> Any:
    """The entry's value, or Unreadable. `line` is the one it begins on, for the message."""
    try:
        return json.loads(entry.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8: {error.reason} at byte {error.start} of the record")
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, " if error.lineno > 1 else ""
        return Unreadable(f"not JSON: {error.msg} ({place}column {error.colno})")
    except ValueError as error:  # a number of more digits than Python turns into one
        return Unreadable(f"not JSON that can be read: {error}")
    except RecursionError:
        return Unreadable("not a record: nested too deep")


class _Cuts:
    """Collects the places between entries, and from them where each entry begins, block by block."""

    def __init__(self) -> None:
        self.cuts: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []
        self.lines: list[np.ndarray] = []
        self.size = 0  # bytes seen
        self.line = 1  # of the next byte
        self._pending = 0  # so many of the last cuts have had only blanks behind them yet

    def add(self, block: bytes, cuts: np.ndarray) -> None:
        """`cuts` are places in `block`; -1 stands for the beginning of the file."""
        after = [0] * self._pending + (cuts + 1).tolist()
        found = [NOT_BLANK.search(block, at) for at in after]
        self._pending = found.count(None)
        begins = np.array([match.start() for match in found if match], dtype=np.int64)
        newlines = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == NEWLINE)
        self.cuts.append(self.size + cuts)
        self.starts.append(self.size + begins)
        self.lines.append(self.line + np.searchsorted(newlines, begins))
        self.size += len(block)
        self.line += len(newlines)

    def spans(self) -> np.ndarray:
        """int64[N, 3]: first byte, end and line of what follows each cut; the last ends with the file."""
        cuts, starts, lines = (
            np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
            for parts in (self.cuts, self.starts, self.lines)
        )
        starts = np.append(starts, [self.size] * self._pending)
        lines = np.append(lines, [self.line] * self._pending)
        ends = np.append(cuts[1:], [self.size] * min(1, len(cuts)))
        return np.stack([starts, ends, lines], axis=1).astype(np.int64)


def _index_lines(path: Path, chunk: int) -> np.ndarray:
    cuts = _Cuts()
    for number, block in enumerate(_blocks(path, chunk)):
        first = len(MARK) - 1 if block.startswith(MARK) else -1
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == NEWLINE)
        cuts.add(block, np.concatenate([[first], ends]) if number == 0 else ends)
    spans_N3 = cuts.spans()
    return spans_N3[spans_N3[:, 0] < spans_N3[:, 1]]  # a blank line's first letter is that of a later line


def _index_objects(path: Path, chunk: int) -> np.ndarray | None:
    """Entries that begin where an object does that is in no other; None if the last one has no end."""
    cuts, marks = _Cuts(), _Marks()
    for block in _blocks(path, chunk):
        at, kinds, depths = marks.scan(np.frombuffer(block, dtype=np.uint8))
        cuts.add(block, at[(kinds == OPEN) & (depths == 1)] - 1)
    if not marks.is_whole:
        return None
    spans_N3 = cuts.spans()
    spans_N3[:-1, 1] = spans_N3[1:, 0]
    return spans_N3


def _index_list(path: Path, chunk: int) -> np.ndarray:
    cuts, marks = _Cuts(), _Marks()
    for block in _blocks(path, chunk):
        cuts.add(block, marks.find(np.frombuffer(block, dtype=np.uint8)))
    spans_N3 = cuts.spans()
    if not marks.closed:
        raise _explain(path, spans_N3, cuts.line)
    entries_N3, (rest, size, line) = spans_N3[:-1], (int(number) for number in spans_N3[-1])
    if rest < size:
        raise DataError("not JSON: something follows the list", path=path, line=line)
    blank_N = entries_N3[:, 0] >= entries_N3[:, 1]
    if len(entries_N3) == 1 and blank_N[0]:
        return entries_N3[:0]
    if blank_N.any():
        raise DataError(
            "not JSON: an entry is missing between two commas or brackets",
            path=path,
            line=int(entries_N3[blank_N, 2][0]),
        )
    return entries_N3


def _explain(path: Path, spans_N3: np.ndarray, last: int) -> DataError:
    """What is wrong with a list whose end was not found: its first broken entry, else the missing bracket."""
    for start, end, line in spans_N3.tolist():
        entry = read_span(path, start, end)
        value = entry if isinstance(entry, Unreadable) else parse_entry(entry, line)
        if isinstance(value, Unreadable):
            return DataError(value.problem, path=path, line=line)
    return DataError("not JSON: expected ',' or ']' after a record", path=path, line=last)


class _Marks:
    """Finds the brackets of the list itself and the commas between its entries, block by block."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_string = False
        self._escaped = False  # the block before ended with a backslash that counts

    def find(self, block_B: np.ndarray) -> np.ndarray:
        """Places in the block, in order."""
        if self.closed:
            return np.empty(0, dtype=np.int64)
        at, kinds, depths = self.scan(block_B)
        ends = np.flatnonzero((kinds == CLOSE) & (depths <= 0))
        if len(ends):  # what comes after the list's own bracket is not ours to split
            self.closed = True
            at, kinds, depths = (part[: ends[0] + 1] for part in (at, kinds, depths))
        before = depths - STEP[kinds]
        return at[((kinds == COMMA) & (depths == 1)) | ((kinds == OPEN) & (before == 0)) | (depths <= 0)]

    @property
    def is_open(self) -> bool:
        """Whether what was scanned ends within an object or a list, and in no string."""
        return self._depth > 0 and not self._in_string

    @property
    def is_whole(self) -> bool:
        """Whether all that was scanned is closed."""
        return self._depth == 0 and not self._in_string

    def scan(self, block_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Brackets and commas outside strings: their places in the block, kinds, and the depth behind each."""
        kinds = KIND[block_B]
        kinds[self._escapes(block_B)] = 0
        at = np.flatnonzero(kinds)
        kinds = kinds[at]
        inside = (np.cumsum(kinds == QUOTE) + self._in_string) % 2 == 1
        if len(inside):
            self._in_string = bool(inside[-1])
        outside = ~inside & (kinds != QUOTE)
        at, kinds = at[outside], kinds[outside]
        depths = self._depth + np.cumsum(STEP[kinds])
        if len(depths):
            self._depth = int(depths[-1])
        return at, kinds, depths

    def _escapes(self, block_B: np.ndarray) -> np.ndarray:
        """Places of bytes that a backslash makes ordinary: those after every other one of a run of backslashes."""
        at = np.flatnonzero(block_B == BACKSLASH)
        order = np.arange(len(at))
        first = np.maximum.accumulate(np.where(np.diff(at, prepend=-2) != 1, order, 0))
        nth = order - first
        if self._escaped and len(at) and at[0] == 0:
            nth[first == 0] += 1  # the run goes on from the block before
        escapes = at[nth % 2 == 0] + 1
        if self._escaped:
            escapes = np.concatenate([[0], escapes])
        self._escaped = bool(len(escapes)) and int(escapes[-1]) == len(block_B)
        return escapes[escapes < len(block_B)]
