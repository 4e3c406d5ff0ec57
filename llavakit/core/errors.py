"""Errors a user can cause, each one line: what is wrong, where, and what to do about it.

The command line prints the line and exits with 2; everything else (a bug of ours) keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")
LONG_WORD = re.compile(r"\S{400,}")  # no path of people's; a picture in base64, say
# What can be wrong with a record before its media are looked at; `undecided`: two answers of which none is better.
FlawKind = Literal["record", "placeholders", "answer", "unread", "undecided"]


class UserError(Exception):
    """Something the user gave us cannot work. `str(error)` is the whole message."""

    exit_code = 2


INTERRUPTED = 130  # exit code: 128 and the number of SIGINT


class Interrupted(UserError):
    """Stopped from outside, with everything saved: what was done, and the command that goes on."""

    def __init__(self, done: str, command: str, exit_code: int) -> None:
        super().__init__(f"{done}; go on with: {command}")
        self.done, self.exit_code = done, exit_code


class ConfigError(UserError):
    """A setting, recipe or name that does not exist or does not fit."""


class DataError(UserError):
    """A record or a media file that cannot be used. Knows its place, so that it can be skipped and listed."""

    def __init__(
        self, what: str, *, path: Path | str | None = None, line: int | None = None, kind: FlawKind = "record"
    ) -> None:
        self.what, self.path, self.line, self.kind = printable(what), path, line, kind
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(_encodable(place) + self.what)


def printable(what: str) -> str:
    """Text that quotes anything as one line that any terminal and file takes; long words are shortened."""
    return LONG_WORD.sub(lambda found: shorten(found[0]), _encodable(" ".join(what.splitlines())))


def shorten(text: str, most: int = 120) -> str:
    """A text with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}...{text[-most // 3 :]} ({len(text)} characters)"


def _encodable(text: str) -> str:
    """Halves of characters (lone surrogates) as JSON escapes; they have no bytes of their own."""
    return text.encode("utf-8", "backslashreplace").decode()


class TooManyFailures(UserError):
    """More of a run failed than it may: what is there is kept, and its figures are not to be trusted."""

    exit_code = 1


class RemoteError(UserError):
    """Another server that cannot be reached, or that refuses."""


class RemoteTimeout(RemoteError):
    """Another server that did not answer in time."""


class RemoteRefused(RemoteError):
    """Another server that does not take what it was asked, and will not when it is asked again (4xx)."""


class CheckpointError(UserError):
    """A directory that is not a checkpoint, or one that does not fit what was asked."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something valid is near, else the list of what is valid."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(word) for word in close) + "?"
    return "; valid: " + ", ".join(valid)


def pick(table: dict[str, T], name: str, what: str) -> T:
    """`table[name]`, or a ConfigError that names the nearest valid names."""
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}{nearest(name, table)}")
    return table[name]
