"""One progress bar for every long task, and one way to say that a stage begins."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
console = Console(highlight=False, emoji=False)  # an answer's ":cat:" is text


def printable(text: str) -> str:
    """Without what a terminal obeys instead of showing it: models and servers write what strangers told them to."""
    return text.translate(CONTROL)


def say(text: str) -> None:
    """One line for a person: a stage begins, a file was written."""
    console.print(printable(text), soft_wrap=True, markup=False)  # a path may hold [brackets]


class Bar:
    """A running bar. `advance` moves it, `note` shows the newest figures behind it."""

    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self._progress.update(self._task, advance=count)  # type: ignore[arg-type]
        if note is not None:
            self._progress.update(self._task, note=note)  # type: ignore[arg-type]


@contextmanager
def bar(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """A bar with count, elapsed time and ETA; it stays on the screen when it ends.

    Where the output is a file or a pipe, rich writes the final state only.
    """
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
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))
