"""How sure a figure is: pictures drawn again, with all their questions, and two runs with their answers swapped.

Questions about one picture are no independent observations, so a picture is what is drawn (a cluster).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llavakit.eval.benchmark import Aggregate, Figures, Points, Question, accuracy
from llavakit.rules.flips import sign_test

DRAWS, SLOW_DRAWS = 2000, 200  # of what numpy computes, and of what Python has to
SWAPS, SLOW_SWAPS = 10_000, 400
BLOCK = 4_000_000  # numbers drawn at once
SEED = 0
DETECTED = 1.96 + 0.84  # standard errors of a difference that a test at 5 % finds four times in five


def headline(figures: Figures) -> float:
    return next(iter(figures.values()))


def gather(clusters: Sequence[str]) -> list[list[int]]:
    """The places of each cluster, in the order of their first."""
    members: dict[str, list[int]] = {}
    for at, name in enumerate(clusters):
        members.setdefault(name, []).append(at)
    return list(members.values())


def interval(
    questions: Sequence[Question], points: Points, clusters: Sequence[str], aggregate: Aggregate
) -> tuple[float, float] | None:
    """95 % of the headline when pictures are drawn again (percentile bootstrap); None for fewer than two."""
    members = gather(clusters)
    if len(members) < 2:
        return None
    [found] = redraw(questions, [points], members, aggregate)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def redraw(
    questions: Sequence[Question], runs: Sequence[Points], members: list[list[int]], aggregate: Aggregate
) -> np.ndarray:
    """The headline of every run under the same draws of pictures, [runs, draws]."""
    random = np.random.default_rng(SEED)
    if aggregate is accuracy:
        sums_RC = np.array([sums_of(points, members) for points in runs])
        sizes_C = np.array([len(each) for each in members])
        found = []
        for count in blocks(DRAWS, len(members)):
            drawn_DC = random.integers(len(members), size=(count, len(members)))
            found.append(100 * sums_RC[:, drawn_DC].sum(axis=-1) / sizes_C[drawn_DC].sum(axis=-1))
        return np.concatenate(found, axis=1)
    figures: list[list[float]] = [[] for _ in runs]
    for _ in range(SLOW_DRAWS):
        drawn = [(n, at) for n, c in enumerate(random.integers(len(members), size=len(members)))
                 for at in members[c]]  # fmt: skip
        # A picture drawn twice is two pictures.
        again = [replace(questions[at], unit=f"{questions[at].unit}#{n}") for n, at in drawn]
        for points, row in zip(runs, figures, strict=True):
            row.append(headline(aggregate(again, [points[at] for _, at in drawn])))
    return np.array(figures)


def swap(
    questions: Sequence[Question], runs: tuple[Points, Points], members: list[list[int]], aggregate: Aggregate
) -> tuple[float, str]:
    """p of two runs that differ no more than by which of them gave which answers, and the name of the test.

    All answers about a picture are swapped together. Where every picture that differs counts the same (single
    questions, right or wrong), all swaps are counted without drawing any: McNemar's exact test.
    """
    random = np.random.default_rng(SEED)
    if aggregate is accuracy:
        gains_C = sums_of(runs[1], members) - sums_of(runs[0], members)
        gains_C = gains_C[gains_C != 0]
        if len(set(abs(gains_C))) <= 1:
            return sign_test(int((gains_C < 0).sum()), int((gains_C > 0).sum())), "McNemar"
        seen = abs(gains_C.sum())
        sums = [
            abs((random.integers(2, size=(count, len(gains_C))) * 2 - 1) @ gains_C)
            for count in blocks(SWAPS, len(gains_C))
        ]
        hits, draws = int((np.concatenate(sums) >= seen - 1e-9).sum()), SWAPS
    else:
        seen = abs(headline(aggregate(questions, runs[1])) - headline(aggregate(questions, runs[0])))
        hits, draws = 0, SLOW_SWAPS
        for _ in range(draws):
            both = [list(points) for points in runs]
            for c in np.flatnonzero(random.integers(2, size=len(members))):
                for at in members[c]:
                    both[0][at], both[1][at] = both[1][at], both[0][at]
            hits += abs(
                headline(aggregate(questions, both[1])) - headline(aggregate(questions, both[0]))
            ) >= (seen - 1e-9)
    return (hits + 1) / (draws + 1), "swaps"


def sums_of(points: Points, members: list[list[int]]) -> np.ndarray:
    """Points of each cluster; what was not read has none."""
    return np.array([sum(points[at] or 0.0 for at in each) for each in members])


def blocks(draws: int, width: int) -> list[int]:
    """Draws in parts that fit into memory."""
    most = max(1, BLOCK // max(1, width))
    return [min(most, draws - at) for at in range(0, draws, most)]
