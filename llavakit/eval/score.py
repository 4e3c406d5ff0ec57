"""Answers to scores: figures by a named rule set, what was not read with its bounds, and an interval.

Scoring needs the questions and the answers file, no model and no picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llavakit.core.errors import DataError
from llavakit.eval.answers import Answers, Given
from llavakit.eval.benchmark import Benchmark, Figures, Question
from llavakit.eval.resample import headline, interval
from llavakit.rules.thinking import strip_thinking


@dataclass(frozen=True)
class Verdict:
    """A question, what was said, and its points (None: not read)."""

    question: Question
    given: Given
    point: float | None


@dataclass(frozen=True)
class Repeats:
    """The headline of every repeat and what they say together, over the questions that all have answered."""

    scores: tuple[float, ...]
    mean: float
    spread: float  # standard deviation of one repeat
    any_right: float  # pass@k: the best of each question's answers
    majority: float | None  # the answer said most often; None where answers are too long to be said twice

    def __str__(self) -> str:
        k = len(self.scores)
        vote = "" if self.majority is None else f", majority {self.majority:.2f}"
        return (
            f"{k} repeats: mean {self.mean:.2f}, spread {self.spread:.2f} "
            f"({min(self.scores):.2f} to {max(self.scores):.2f}), pass@{k} {self.any_right:.2f}{vote}"
        )


@dataclass(frozen=True)
class Score:
    """A benchmark's figures by one rule set. The first figure is the headline, which bounds and interval are of."""

    task: str
    title: str
    rules: str
    figures: Figures
    questions: int  # of the data, or of --limit
    answered: int  # and scored
    unparsed: int
    truncated: int  # cut at max_tokens
    skipped: int  # could not be asked
    if_wrong: float  # the headline if all that was not read is wrong
    if_chance: float  # and if it has the points of a guesser
    interval: tuple[float, float] | None  # 95 %, pictures drawn again; None for fewer than two pictures
    repeats: Repeats | None = None  # this score is of the first one

    @property
    def headline(self) -> tuple[str, float]:
        return next(iter(self.figures.items()))


def cluster_of(given: Given) -> str:
    """What a question's answer depends on together with others: its first picture or video."""
    return (given.pictures or (given.id,))[0]


def score_answers(
    task: str, benchmark: Benchmark, questions: Sequence[Question], answers: Answers, rules: str | None
) -> tuple[Score, list[Verdict]]:
    """Points of every answer and what they sum up to. DataError where nothing was answered."""
    name, chosen = benchmark.choose(rules)
    pairs = [(q, answers.given[q.id]) for q in questions if q.id in answers.given]
    skipped = sum(given.skipped for _, given in pairs)
    pairs = [(question, given) for question, given in pairs if not given.skipped]
    if not pairs:
        raise DataError("no question has an answer", path=answers.path)
    asked = [question for question, _ in pairs]
    said = [strip_thinking(given.answer) for _, given in pairs]
    points = chosen.judge(asked, said)
    clusters = [cluster_of(given) for _, given in pairs]
    wrong = [0.0 if point is None else point for point in points]
    guessed = [q.chance if point is None else point for q, point in zip(asked, points, strict=True)]
    score = Score(
        task, benchmark.title, name,
        figures=chosen.aggregate(asked, points) | chosen.details(asked, said),
        questions=len(questions), answered=len(asked), skipped=skipped,
        unparsed=sum(point is None for point in points),
        truncated=sum(given.finish == "length" for _, given in pairs),
        if_wrong=headline(chosen.aggregate(asked, wrong)),
        if_chance=headline(chosen.aggregate(asked, guessed)),
        interval=interval(asked, points, clusters, chosen.aggregate),
    )  # fmt: skip
    return score, [Verdict(*pair, point) for pair, point in zip(pairs, points, strict=True)]
