"""What people voted: the file that `llavakit collect` writes, and the pairs it makes.

A `.votes` file is a journal of JSON lines. Every line is whole in itself: the prompt as messages, two answers, who
judged them and how. It only grows, so an annotator who changed his mind has a later line about the same pair, and
that one counts. Read as data, a pair is one record (`dialects/collected.py`) with the votes of all annotators;
gold items, which test the annotators, are no data.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from llavakit.core.errors import DataError, shorten
from llavakit.core.journal import Row, read_journal
from llavakit.data.dialects.collected import read_verdict
from llavakit.data.dialects.judged import Verdict

SUFFIX = ".votes"
Choice = Literal[
    1, 2, "tie", "both_bad", "skip"
]  # what a question is answered with; numbers are of the answers


@dataclass(frozen=True)
class Vote:
    """What one annotator said of one pair."""

    item: str  # names prompt and answers by what they say
    annotator: str
    verdict: Choice  # what the two questions come to
    hallucination: Choice  # which answer is less hallucinated
    helpfulness: Choice | None  # which is more helpful; None: not asked
    left: Literal[1, 2]  # which answer stood on the left, or on top
    seconds: float  # of looking at it
    time: str  # UTC, when it came in
    gold: Verdict | None = None  # what is right, where that is known

    @property
    def decided(self) -> Verdict | None:
        return read_verdict(self.verdict)


@dataclass(frozen=True)
class Asked:
    """A pair as it stands in the file: the record of its prompt, its answers, what lies beside them."""

    messages: list[Any]
    answers: list[str]
    source: str  # where it comes from, file:line
    extra: dict[str, Any]


class Votes:
    """All votes of a file, the newest of each annotator about each pair."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.of: dict[str, dict[str, Vote]] = {}  # item -> annotator -> vote
        self.by: dict[str, list[str]] = {}  # annotator -> items, in the order in which they came first
        self.lines: dict[str, int] = {}  # item -> its first line
        self.changed = 0  # votes that a later one replaced

    def add(self, vote: Vote, asked: Asked, line: int = 0) -> None:
        self.asked.setdefault(vote.item, asked)
        self.lines.setdefault(vote.item, line)
        votes = self.of.setdefault(vote.item, {})
        if vote.annotator in votes:
            self.changed += 1
        else:
            self.by.setdefault(vote.annotator, []).append(vote.item)
        votes[vote.annotator] = vote

    @cached_property
    def all(self) -> list[Vote]:
        """The votes that count, pair after pair."""
        return [vote for votes in self.of.values() for vote in votes.values()]


def name_item(messages: list[Any], answers: Iterable[str]) -> str:
    """A pair's name: the same for the same prompt and the same two answers in any order."""
    text = repr((messages, sorted(answers)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def write_vote(vote: Vote, asked: Asked) -> Row:
    """A line of the file."""
    return asdict(vote) | asdict(asked)


def gather_votes(rows: Iterable[Row], path: Path) -> Votes:
    """The votes of a file's rows. DataError, with file:line, for a row that is none."""
    votes = Votes()
    for line, row in enumerate(rows, 1):
        try:
            votes.add(*_read(row), line)
        except DataError as error:
            raise DataError(error.what, path=path, line=line) from None
    return votes


def read_votes(path: Path) -> Votes:
    """The votes of a file; one that is being written is read as far as it has come."""
    return gather_votes(read_journal(path), path)


def _read(row: Row) -> tuple[Vote, Asked]:
    missing = [name for name in (*Vote.__annotations__, *Asked.__annotations__) if name not in row]
    if missing:
        raise DataError(f"no vote of `llavakit collect`: {', '.join(missing)} missing")
    for name, kind in (
        ("item", str),
        ("annotator", str),
        ("messages", list),
        ("answers", list),
        ("extra", dict),
    ):
        if not isinstance(row[name], kind):
            raise DataError(f"'{name}' is {shorten(repr(row[name]), 60)}")
    for name in ("verdict", "hallucination"):
        read_verdict(row[name])
    if row["gold"] is not None:
        read_verdict(row["gold"])
    if row["left"] not in get_args(Literal[1, 2]) or not isinstance(row["seconds"], int | float):
        raise DataError("'left' must be 1 or 2, and 'seconds' a number")
    return (
        Vote(**{name: row[name] for name in Vote.__annotations__}),
        Asked(**{name: row[name] for name in Asked.__annotations__}),
    )


class VoteRows:
    """The pairs of a `.votes` file as entries of a data file; gold items are left out."""

    def __init__(self, path: Path) -> None:
        votes = read_votes(path)
        self._entries: list[tuple[int, Row]] = []
        for item, asked in votes.asked.items():
            said = list(votes.of[item].values())
            if all(vote.gold is None for vote in said):
                row = asked.extra | {"messages": asked.messages, "answers": asked.answers}
                ballots = [{"annotator": vote.annotator, "verdict": vote.verdict} for vote in said]
                self._entries.append((votes.lines[item], row | {"votes": ballots}))

    def __len__(self) -> int:
        return len(self._entries)

    def line(self, index: int) -> int:
        return self._entries[index][0]

    def raw(self, index: int) -> Row:
        return self._entries[index][1]
