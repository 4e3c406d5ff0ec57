"""Answers to scores: figures by a named rule set, what was not read with its bounds, and an interval.

Scoring needs the questions and the answers file, no model and no picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llavakit.core.errors import DataError
from llavakit.eval.answers import Answers, Given
from llavakit.eval.benchmark import Aggregate, Benchmark, Figures, Points, Question, accuracy
from llavakit.rules.thinking import strip_thinking

DRAWS, SLOW_DRAWS = 2000, 200  # resamples of an interval: of a mean, and of what Python has to compute
SEED = 0


@dataclass(frozen=True)
class Verdict:
    """A question, what was said, and its points (None: not read)."""

    question: Question
    given: Given
    point: float | None


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

    @property
    def headline(self) -> tuple[str, float]:
        return next(iter(self.figures.items()))


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
    points = chosen.judge(asked, [strip_thinking(given.answer) for _, given in pairs])
    clusters = [(given.pictures or (given.id,))[0] for _, given in pairs]
    wrong = [0.0 if point is None else point for point in points]
    guessed = [q.chance if point is None else point for q, point in zip(asked, points, strict=True)]
    score = Score(
        task, benchmark.title, name,
        figures=chosen.aggregate(asked, points),
        questions=len(questions), answered=len(asked), skipped=skipped,
        unparsed=sum(point is None for point in points),
        truncated=sum(given.finish == "length" for _, given in pairs),
        if_wrong=headline(chosen.aggregate(asked, wrong)),
        if_chance=headline(chosen.aggregate(asked, guessed)),
        interval=interval(asked, points, clusters, chosen.aggregate),
    )  # fmt: skip
    return score, [Verdict(*pair, point) for pair, point in zip(pairs, points, strict=True)]


def headline(figures: Figures) -> float:
    return next(iter(figures.values()))


def interval(
    questions: Sequence[Question], points: Points, clusters: Sequence[str], aggregate: Aggregate
) -> tuple[float, float] | None:
    """95 % of the headline when pictures are drawn again, with all their questions (percentile bootstrap)."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < 2:
        return None
    members: list[list[int]] = [[] for _ in names]
    for at, name in enumerate(clusters):
        members[names[name]].append(at)
    random = np.random.default_rng(SEED)
    if aggregate is accuracy:
        sums_C = np.array([sum(points[at] or 0.0 for at in each) for each in members])
        sizes_C = np.array([len(each) for each in members])
        draws = (random.integers(len(names), size=len(names)) for _ in range(DRAWS))
        found = [100 * sums_C[draw].sum() / sizes_C[draw].sum() for draw in draws]
    else:
        found = []
        for _ in range(SLOW_DRAWS):
            drawn = list(enumerate(random.integers(len(names), size=len(names))))
            # A picture drawn twice is two pictures.
            again = [
                replace(questions[a], unit=f"{questions[a].unit}#{n}") for n, c in drawn for a in members[c]
            ]
            found.append(headline(aggregate(again, [points[a] for _, c in drawn for a in members[c]])))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
