"""A file of JSON lines that only grows: what was added survives whatever ends the process.

One process adds at a time. A line that a killed process left unfinished is cut off when the file is opened again;
a file that is none of ours is refused and stays as it is.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError, DataError

Row = dict[str, Any]
OPENING = b'{"'  # of a row that says something
BLOCK = 1 << 16  # bytes read at once where a line's length is not known


class Journal:
    """Adds rows to a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows and wait until the disk has them."""
        self.write(rows)
        self.sync()

    def write(self, rows: Sequence[Row]) -> int:
        """Write the rows: a process that is killed keeps them, a machine that stops only those before `sync`.

        Returns where the first of them begins, for `read_at`. One thread at a time.
        """
        begin = os.fstat(self._descriptor).st_size
        data = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows).encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        return begin

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        os.fsync(self._descriptor)

    def read_at(self, begin: int) -> Row:
        """The row that begins there."""
        row: Row = json.loads(_read_line(self._descriptor, begin))
        return row


def _read_line(descriptor: int, begin: int) -> bytes:
    """The line that begins there, of a file in which it ends."""
    line = b""
    while b"\n" not in line:
        line += os.pread(descriptor, BLOCK, begin + len(line))
    return line[: line.index(b"\n")]


def read_journal(path: Path) -> list[Row]:
    """The whole lines of a file; what is behind the last line break was not finished. DataError for other lines."""
    return [row for _, row in scan_journal(path)]


def scan_journal(path: Path) -> Iterator[tuple[int, Row]]:
    """(where it begins, the row) of every whole line, one in memory at a time. DataError for other lines."""
    try:
        begin = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield begin, _parse(line, path, number)
                    begin += len(line)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None


def _parse(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise DataError("not a line that was written here", path=path, line=number)
    return row


@contextmanager
def open_journal(path: Path) -> Iterator[tuple[list[Row], Journal]]:
    """What is in the file, and what adds to it. ConfigError while another process has it open."""
    with continue_journal(path) as journal:
        yield read_journal(path), journal


@contextmanager
def continue_journal(path: Path) -> Iterator[Journal]:
    """What adds to the file. ConfigError while another process has it open, DataError for a file that is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path}: another process is adding to it") from None
        _end_at_a_line(descriptor, path)
        yield Journal(descriptor)
    finally:
        os.close(descriptor)


def _end_at_a_line(descriptor: int, path: Path) -> None:
    """Cut off a row that was not finished; never somebody else's text, nor a row that only lacks its line break."""
    whole, end = _whole(descriptor), os.fstat(descriptor).st_size
    if whole:
        _parse(_read_line(descriptor, 0), path, 1)
    if whole == end:
        return
    if not OPENING.startswith(os.pread(descriptor, len(OPENING), whole)):
        raise DataError("its last line was not written here", path=path)
    try:
        json.loads(os.pread(descriptor, end - whole, whole))
    except ValueError:
        os.ftruncate(descriptor, whole)
    else:
        os.write(descriptor, b"\n")


def _whole(descriptor: int) -> int:
    """How many bytes of the file are whole lines."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - BLOCK)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
