"""Formats of judging: a prompt, and what is read of the answer. One reader a format, which takes the last verdict.

What cannot be read has no value. A number outside the scale is told apart from no number; neither becomes a score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from llavakit.core.errors import DataError, pick
from llavakit.critic import prompts
from llavakit.data.cases import Case
from llavakit.rules import verdicts
from llavakit.rules.rankings import last_ranking
from llavakit.text.conversation import Conversation, Message, Text

Problem = Literal["", "unread", "range"]
EVERYTHING = float("inf")


@dataclass(frozen=True)
class Reading:
    """What a judge said: a score or a margin (by how much the second answer is better), or why there is none.

    Of several answers it is a ranking: their letters in the order in which they were shown, from best to worst.
    """

    value: float | None
    problem: Problem = ""
    ranking: str = ""


UNREAD, OUTSIDE = Reading(None, "unread"), Reading(None, "range")
SEVERAL: Literal[26] = 26  # answers at most in a ranking: each has a letter
Answers = Literal[1, 2, 26]
Read = Callable[[str], Reading]
Said = TypeVar("Said", str, int)


@dataclass(frozen=True)
class Format:
    """A way to ask a judge about one answer, about two or about several, and to read what it says.

    `verdicts` are what may stand behind `lead` in an answer, with their values: whoever has the judge's
    probabilities weighs them (`expected.py`).
    """

    name: str
    answers: Answers
    prompt: str
    read: Read
    lead: str
    verdicts: Mapping[str, float]
    sees: bool = True  # whether the judge is shown the pictures
    needs: tuple[str, ...] = ()  # of "reference" and "context", what the case must have
    words: Mapping[str, str] = field(default_factory=dict)  # of the prompt

    def ask(self, case: Case, *, swapped: bool = False) -> Conversation:
        """The prompt about a case, with its two answers in the other order if `swapped`.

        A case that brings its own prompt is asked by it. DataError for one that lacks what the format needs.
        """
        if case.asked:
            return Conversation((Message("user", (*case.media, Text(case.question))),))
        have = {"reference": case.reference, "context": case.context}
        missing = [name for name in self.needs if not have[name]]
        if missing:
            raise DataError(f"case {case.id!r} has no {missing[0]!r}, which the format {self.name!r} needs")
        shown = case.answers[::-1] if swapped else case.answers
        listed = prompts.listed(shown) if self.answers == SEVERAL else ""
        text = self.prompt.format(
            question=case.question, first=shown[0], second=shown[-1], answers=listed, **have, **self.words
        )
        return Conversation((Message("user", (*(case.media if self.sees else ()), Text(text))),))

    def reading(self, said: str, case: Case) -> Reading:
        """What was said about a case. A ranking of more or fewer answers than it has is outside the scale."""
        found = self.read(said)
        return OUTSIDE if found.ranking and len(found.ranking) != len(case.answers) else found


def scores(lowest: float, highest: float, read: Callable[[str, float, float], float | None]) -> Read:
    """A reader of a number: the last one on the scale; outside it where there is none but another number."""

    def reader(text: str) -> Reading:
        value = read(text, lowest, highest)
        if value is not None:
            return Reading(float(value))
        return UNREAD if read(text, -EVERYTHING, EVERYTHING) is None else OUTSIDE

    return reader


def named(read: Callable[[str], Said | None], values: Mapping[Said, float]) -> Read:
    """A reader of one of several verdicts."""

    def reader(text: str) -> Reading:
        said = read(text)
        return UNREAD if said is None else Reading(values[said])

    return reader


def pair_of_scores(value: Callable[[float, float], float]) -> Read:
    """A reader of LLaVA-Bench's two scores from 1 to 10."""

    def reader(text: str) -> Reading:
        found = verdicts.two_scores(text)
        if found is None:
            return UNREAD
        return Reading(value(*found)) if all(1 <= number <= 10 for number in found) else OUTSIDE

    return reader


def ranked(text: str) -> Reading:
    """A reader of rankings."""
    found = last_ranking(text)
    return UNREAD if found is None else Reading(None, ranking=found)


ARENA = {"A>>B": -1.0, "A>B": -0.5, "A=B": 0.0, "B>A": 0.5, "B>>A": 1.0}
WINNER = {"first": -1.0, "second": 1.0, "tie": 0.0}
margins = pair_of_scores(lambda one, two: (two - one) / 9)
second_score = pair_of_scores(lambda one, two: two)


def _better(name: str, one: str, two: str) -> Format:
    return Format(
        name, 2, prompts.BETTER, named(verdicts.better_response, WINNER), "The better response: [",
        {f"{one}]": -1.0, f"{two}]": 1.0, "equally good]": 0.0}, words={"one": one, "two": two},
    )  # fmt: skip


def _numbers(lowest: int, highest: int, after: str = "") -> dict[str, float]:
    return {f"{number}{after}": float(number) for number in range(lowest, highest + 1)}


_WINS = {"1": -1.0, "2": 1.0}
_PAIRS = {f"{a} {b}\n": (a, b) for a in range(1, 11) for b in range(1, 11)}
PAIRWISE = (
    _better("better", "1", "2"),
    _better("better-letters", "A", "B"),
    _better("better-words", "first", "second"),
    Format(
        "arena", 2, prompts.arena("{first}", "{second}"), named(verdicts.arena, ARENA), "My final verdict is: [[",
        {f"{said}]]": value for said, value in ARENA.items()},
    ),
    Format(
        "scores", 2, prompts.two_scores("{first}", "{second}"), margins, "",
        {said: (b - a) / 9 for said, (a, b) in _PAIRS.items()},
    ),
    Format(
        "letters", 2, prompts.LETTERS, named(verdicts.last_label, {"A": -1.0, "B": 1.0}), "[[",
        {"A]]": -1.0, "B]]": 1.0},
    ),
    Format(
        "overall", 2, prompts.OVERALL, named(verdicts.better_answer, {1: -1.0, 2: 1.0}),
        "Overall Judgment: Answer ", {f"{number} is better": value for number, value in _WINS.items()},
    ),
    Format(
        "boxed", 2, prompts.BOXED, named(verdicts.boxed, _WINS), "\\boxed{",
        {f"{number}}}": value for number, value in _WINS.items()},
    ),
)  # fmt: skip
POINTWISE = (
    Format("score", 1, prompts.SCORE, scores(0, 100, verdicts.score), "Score: ", _numbers(0, 100, "\n")),
    Format(
        "caption", 1, prompts.CAPTION, scores(0, 100, verdicts.final_score), "Final Score: ", _numbers(0, 100),
        needs=("reference",),
    ),
    Format(
        "llava-bench", 1, prompts.two_scores("{reference}", "{first}", context=True), second_score, "",
        {said: float(b) for said, (_, b) in _PAIRS.items()}, sees=False, needs=("reference", "context"),
    ),
    Format(
        "wilder", 1, prompts.two_scores("{reference}", "{first}", ten=True), second_score, "10 ",
        _numbers(1, 10, "\n"), needs=("reference",),
    ),
    Format(
        "mmhal", 1, prompts.MMHAL, scores(0, 6, verdicts.one_rating), "Rating: ", _numbers(0, 6, ","),
        sees=False, needs=("reference", "context"),
    ),
    Format(
        "mm-vet", 1, prompts.MMVET, scores(0, 1, verdicts.score), "", {f"{n / 10}": n / 10 for n in range(11)},
        sees=False, needs=("reference",),
    ),
    Format(
        "wildvision", 1, prompts.arena("{reference}", "{first}"), named(verdicts.arena, ARENA),
        "My final verdict is: [[", {f"{said}]]": value for said, value in ARENA.items()}, needs=("reference",),
    ),
    Format(
        "refomb", 1, prompts.REFOMB, scores(0, 3, verdicts.one_rating), "Rating: ", _numbers(0, 3, ","),
        needs=("context",),
    ),
    Format(
        "vibe", 1, prompts.VIBE, scores(1, 5, verdicts.one_rating), "Rating: ", _numbers(1, 5), needs=("reference",)
    ),
)  # fmt: skip
RANKING = Format("ranking", SEVERAL, prompts.RANKING, ranked, "", {})
FORMATS = {each.name: each for each in (*PAIRWISE, *POINTWISE)}
WANTED: dict[Answers, tuple[str, tuple[Format, ...]]] = {
    1: ("1 answer", POINTWISE), 2: ("2 answers", PAIRWISE), SEVERAL: ("a ranking", (RANKING,)),
}  # fmt: skip


def choose(name: str | None, answers: Answers) -> Format:
    """The format of this name for so many answers; without a name the first."""
    wanted, formats = WANTED[answers]
    table = {each.name: each for each in formats}
    return pick(table, name or next(iter(table)), f"format for {wanted}")


def recognise(verdict: str) -> tuple[Format, float] | None:
    """The format whose reader takes a verdict, and its value; None if none does.

    For rows of LLaVA-Critic-113k, which do not name theirs. Formats with marks of their own are tried first.
    """
    for name in ("arena", "better", "caption", "mmhal", "scores", "letters", "score"):
        reading = FORMATS[name].read(verdict)
        if reading.value is not None:
            return FORMATS[name], reading.value
    return None
