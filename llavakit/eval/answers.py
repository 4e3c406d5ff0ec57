"""The file of a model's answers: it only grows, says who answered what, and is scored without the model.

A journal: its first line says who was asked and how, each other one holds an answer with digests of its question.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.journal import Journal, Row, open_journal, read_journal
from llavakit.eval.benchmark import Question
from llavakit.text.conversation import Image, ImageSource, words_digest
from llavakit.vision.image import digest
from llavakit.vision.video import video_digest

SKIPPED = "skipped"
Digests = dict[tuple[type, Path | bytes | tuple[ImageSource, ...]], str]  # by kind and file


@dataclass(frozen=True)
class Given:
    """An answer, or why there is none."""

    id: str
    prompt: str  # digest of the text, with the places of its pictures
    pictures: tuple[str, ...]  # digests of their files
    answer: str
    finish: str  # "stop", "length", SKIPPED, or what a server said
    problem: str = ""  # of what was skipped

    @property
    def skipped(self) -> bool:
        return self.finish == SKIPPED


def prompt_digest(question: Question) -> str:
    """A name for what is asked, pictures aside."""
    return words_digest(question.parts)


def picture_digests(question: Question, known: Digests) -> tuple[str, ...]:
    """A name for each picture's and video's file. DataError if it cannot be read.

    `known` remembers those of a run: many questions are about one file, and videos may be gigabytes.
    """
    found = []
    for part in question.conversation.media:
        if isinstance(part.source, PIL.Image.Image):  # opened: it has no key
            found.append(digest(part.source)[:16])
            continue
        key = type(part), part.source
        if key not in known:
            known[key] = digest(part.source) if isinstance(part, Image) else video_digest(part.source)
        found.append(known[key][:16])
    return tuple(found)


class Answers:
    """The answers of one benchmark, by the id of their question; the last line of an id counts."""

    def __init__(self, path: Path, header: dict[str, Any], given: dict[str, Given]) -> None:
        self.path, self.header, self.given = path, header, given

    def check_prompts(self, questions: Sequence[Question]) -> None:
        """Refuse answers to questions that are not those of the data any more. Pictures are not looked at."""
        asked = {question.id: question for question in questions}
        for name, given in self.given.items():
            if name not in asked:
                raise DataError(f"question {name!r} is not in the data; use another --out", path=self.path)
            if given.prompt != prompt_digest(asked[name]):
                raise DataError(
                    f"question {name!r} was asked in other words; use another --out", path=self.path
                )

    def check_pictures(self, question: Question, pictures: tuple[str, ...]) -> None:
        """Refuse an answer about other pictures."""
        if self.given[question.id].pictures != pictures:
            raise DataError(
                f"question {question.id!r} was asked about another picture; use another --out", path=self.path
            )


def read_answers(path: Path) -> Answers:
    """The whole lines of an answers file."""
    rows = read_journal(path)
    if not rows:
        raise DataError("no answers in it", path=path)
    return _answers(path, rows)


def _answers(path: Path, rows: Sequence[Row]) -> Answers:
    given = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            one = Given(**row | {"pictures": tuple(row["pictures"])})
        except (TypeError, KeyError):
            raise DataError("not a line that an evaluation wrote", path=path, line=number) from None
        given[one.id] = one
    return Answers(path, rows[0], given)


class Writer:
    """Adds answers to a file, so that what was added survives whatever ends the process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, given: Sequence[Given]) -> None:
        self._journal.add([asdict(one) for one in given])


@contextmanager
def open_answers(path: Path, header: dict[str, Any]) -> Iterator[tuple[Answers, Writer]]:
    """What is in the file, and what adds to it. Refused: another process that writes, and another header."""
    with open_journal(path) as (rows, journal):
        if not rows:
            journal.add([header])
        found = _answers(path, rows or [header])
        for key in {**header, **found.header}:
            had, has = found.header.get(key), header.get(key)
            if had != has:
                raise ConfigError(f"{path}: its answers have {key} {had!r}, not {has!r}; use another --out")
        yield found, Writer(journal)
