"""Two runs on the same questions: how much they differ, how sure that is, and the answers that changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llavakit.core.errors import DataError
from llavakit.eval.benchmark import Aggregate, Points, Question
from llavakit.eval.resample import DETECTED, gather, headline, redraw, swap
from llavakit.eval.score import Verdict, cluster_of


@dataclass(frozen=True)
class Flip:
    """A question whose answers in two runs have different points."""

    before: Verdict
    after: Verdict

    @property
    def better(self) -> bool:
        return (self.after.point or 0.0) > (self.before.point or 0.0)


@dataclass(frozen=True)
class Comparison:
    """A task of two runs by one rule set, over the questions that both have answered."""

    task: str
    rules: str
    name: str  # of the headline, which everything here is of
    questions: int
    left: int  # answered by one of the two only
    first: float
    second: float
    interval: tuple[float, float] | None  # of the difference, 95 %; None for fewer than two pictures
    p: float
    test: str
    detectable: float | None  # the smallest true difference that so many questions show four times in five
    flips: tuple[Flip, ...]

    @property
    def gain(self) -> float:
        return self.second - self.first


def compare(
    task: str, rules: str, aggregate: Aggregate, first: Sequence[Verdict], second: Sequence[Verdict]
) -> Comparison:
    """The difference of two runs. DataError where they have no question in common, or asked another one."""
    after = {verdict.question.id: verdict for verdict in second}
    pairs = [(one, after[one.question.id]) for one in first if one.question.id in after]
    if not pairs:
        raise DataError(f"{task}: no question that both runs have answered")
    for one, other in pairs:
        if (one.given.prompt, one.given.pictures) != (other.given.prompt, other.given.pictures):
            raise DataError(
                f"{task}: question {one.question.id!r} was asked in other words or about another picture; "
                "runs are compared on the same questions"
            )
    questions: list[Question] = [one.question for one, _ in pairs]
    runs: tuple[Points, Points] = ([one.point for one, _ in pairs], [other.point for _, other in pairs])
    members = gather([cluster_of(one.given) for one, _ in pairs])
    figures = [aggregate(questions, points) for points in runs]
    drawn = redraw(questions, runs, members, aggregate)
    gains = drawn[1] - drawn[0]
    low, high = np.percentile(gains, [2.5, 97.5])
    several = len(members) > 1
    p, test = swap(questions, runs, members, aggregate)
    return Comparison(
        task, rules, next(iter(figures[0])),
        questions=len(pairs), left=len(first) + len(second) - 2 * len(pairs),
        first=headline(figures[0]), second=headline(figures[1]),
        interval=(float(low), float(high)) if several else None,
        p=p, test=test,
        detectable=DETECTED * float(gains.std(ddof=1)) if several else None,
        flips=tuple(Flip(*pair) for pair in pairs if pair[0].point != pair[1].point),
    )  # fmt: skip
