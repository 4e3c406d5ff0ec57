"""What a benchmark is: questions out of the files that users have, rules that give points, figures made of them.

A point is 1.0 for right, 0.0 for wrong, in between where a rule has it so, and None where the answer could not be
read. Nothing puts a number in the place of None but the two bounds of a score (`score.py`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, pick
from llavakit.critic.formats import Format
from llavakit.data.cases import Case
from llavakit.rules.means import mean
from llavakit.text.conversation import Conversation, Message, Part

FAULTS = (ValueError, TypeError, AttributeError, LookupError)  # what other people's files make a reader raise
Points = Sequence[float | None]


@dataclass(frozen=True)
class Question:
    """One question as it is asked, and what is needed to judge the answer."""

    id: str  # of its own within the benchmark
    parts: tuple[Part, ...]  # pictures and text
    reference: Any  # what the rules compare with: a text, texts, a letter, a box
    options: Mapping[str, str] = field(default_factory=dict)  # letter -> text
    group: str = ""  # category, split or kind, for figures of their own
    unit: str = ""  # questions that count together (both of an MME picture, all rotations)
    chance: float = 0.0  # points of one who guesses

    @property
    def conversation(self) -> Conversation:
        return Conversation((Message("user", self.parts),))


Judge = Callable[[str, Question], float | None]  # an answer -> its points
Figures = dict[str, float]  # name -> value; the first is the headline
Aggregate = Callable[[Sequence[Question], Points], Figures]


def accuracy(questions: Sequence[Question], points: Points) -> Figures:
    """Mean points in per cent, of all and of each group; what was not read is wrong."""
    groups = list(dict.fromkeys(question.group for question in questions))
    figures = {"accuracy": 100 * mean([point or 0.0 for point in points])}
    if len(groups) > 1:
        for group in groups:
            own = [point or 0.0 for q, point in zip(questions, points, strict=True) if q.group == group]
            figures[group] = 100 * mean(own)
    return figures


def each(judge: Judge) -> Callable[[Sequence[Question], Sequence[str]], Points]:
    """Points of every answer by itself."""
    return lambda questions, answers: [judge(a, q) for q, a in zip(questions, answers, strict=True)]


@dataclass(frozen=True)
class Rules:
    """How one harness scores a benchmark."""

    judge: Callable[[Sequence[Question], Sequence[str]], Points]  # all at once: CIDEr needs the corpus
    aggregate: Aggregate = accuracy
    details: Callable[[Sequence[Question], Sequence[str]], Figures] = (
        lambda questions, answers: {}
    )  # more figures


@dataclass(frozen=True)
class Submission:
    """How a server that scores takes the answers."""

    file: str
    server: str  # where it goes, for people
    write: Callable[[Sequence[Question], Sequence[str]], bytes]


Asked = Mapping[str, tuple[Format, Case]]  # by the id of a question; several may share a case


@dataclass(frozen=True)
class Judging:
    """How a judge is asked about the answers to a benchmark. The rules read its reviews, not the answers."""

    ask: Callable[[Sequence[Question], Mapping[str, str]], Asked]  # answers by the id of their question
    formats: tuple[Format, ...]


@dataclass(frozen=True)
class Benchmark:
    """A row of the table."""

    title: str  # as people write it
    files: str  # what a folder of it holds, for people
    read: Callable[[Path], list[Question]]
    rules: Mapping[str, Rules]  # the first is the one used if none is asked for; none: a server scores
    max_tokens: int = 16
    submission: Submission | None = None  # how the answers are handed in
    built_in: bool = False  # needs no files
    judging: Judging | None = None  # a judge scores, not a rule

    def questions(self, folder: Path) -> list[Question]:
        """All questions, in the order of the files. DataError for missing files and ids that are there twice."""
        try:
            found = self.read(folder)
        except FAULTS as error:  # a text where a number should be, a list where an object should be
            what = f"{self.title}: its files are not as published: {type(error).__name__}: {error}"
            raise DataError(what, path=folder) from error
        if not found:
            raise DataError(f"{self.title}: no question in its files", path=folder)
        twice = [name for name, count in Counter(question.id for question in found).items() if count > 1]
        if twice:
            raise DataError(
                f"{self.title}: {len(twice)} ids are there twice, {twice[0]!r} first", path=folder
            )
        return found

    def choose(self, rules: str | None) -> tuple[str, Rules]:
        """The rule set of this name, or the row's own first."""
        name = rules or next(iter(self.rules))
        return name, pick(dict(self.rules), name, f"rule set of {self.title}")
