"""One progress bar for every long task, and one way to say that a stage begins."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
LINE_SECONDS = 30  # between two lines about a task where a bar cannot move
console = Console(highlight=False, emoji=False)  # an answer's ":cat:" is text


def printable(text: str) -> str:
    """Without what a terminal obeys instead of showing it: models and servers write what strangers told them to."""
    return text.translate(CONTROL)


def say(text: str) -> None:
    """One line for a person: a stage begins, a file was written."""
    console.print(printable(text), soft_wrap=True, markup=False)  # a path may hold [brackets]


class Bar(Protocol):
    """A long task under way. `advance` counts what is done, `note` tells the newest figures behind it."""

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more are done."""
        ...


class _ScreenBar:
    """A bar that moves."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, note: str | None = None) -> None:
        fields = {} if note is None else {"note": note}
        self._progress.update(self._task, advance=count, **fields)  # type: ignore[arg-type]


class _LogLines:
    """Where nothing can move, in a file or a pipe: a line every LINE_SECONDS, and one at the end."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._note = ""
        self._began = self._told = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self._done += count
        self._note = self._note if note is None else note
        if time.monotonic() - self._told >= LINE_SECONDS:
            self.tell()

    def tell(self) -> None:
        """The line as it is now."""
        self._told = time.monotonic()
        seconds = self._told - self._began
        words = [f"{self._title} {self._done}/{self._total}", _clock(seconds)]
        done, left = self._done - self._first, self._total - self._done
        if done > 0 and left > 0:
            words.append(f"eta {_clock(seconds / done * left)}")
        say("  ".join([*words, self._note]).rstrip())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def bar(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """A bar with count, elapsed time and ETA; it stays on the screen when it ends.

    Where the output is a file or a pipe it is a line every half minute, and a last one.
    """
    if not console.is_terminal:
        lines = _LogLines(title, total, done)
        try:
            yield lines
        finally:
            lines.tell()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _ScreenBar(progress, progress.add_task(title, total=total, completed=done, note=""))
