"""A file of JSON lines that only grows: what was added survives whatever ends the process.

One process adds at a time. A line that a killed process left unfinished is cut off when the file is opened again.
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


class Journal:
    """Adds rows to a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows and wait until the disk has them."""
        data = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows).encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)


def read_journal(path: Path) -> list[Row]:
    """The whole lines of a file; what is behind the last line break was not finished. DataError for other lines."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError("not a line that was written here", path=path, line=number)
        rows.append(row)
    return rows


@contextmanager
def open_journal(path: Path) -> Iterator[tuple[list[Row], Journal]]:
    """What is in the file, and what adds to it. ConfigError while another process has it open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path}: another process is adding to it") from None
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
        yield read_journal(path), Journal(descriptor)
    finally:
        os.close(descriptor)
