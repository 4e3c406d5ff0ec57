"""What people look at first: scores and comparisons as text in 80 columns, and scores as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llavakit.core.errors import shorten
from llavakit.core.plot import SMALL, new_figure, style
from llavakit.eval.compare import Comparison
from llavakit.eval.score import Score

HEAD = f"{'rules':<11}{'score':>18}{'95 %':>15}{'n':>8}{'unread':>7}{'cut':>6}"
AGAINST = f"{'A':>8}{'B':>8}{'B - A':>8}{'95 %':>16}{'p':>8}{'n':>8}{'least':>8}"
NAME = 14  # columns of a task's name, more where one is longer
FLIPS = 10  # of a task, in the terminal


def draw_table(scores: Sequence[Score]) -> str:
    """Scores by rule set. What was not read comes with the bounds that it leaves."""
    width = _width(score.task for score in scores)
    lines = [f"{'task':<{width}}{HEAD}"]
    for score in scores:
        name, value = score.headline
        between = "" if score.interval is None else f"{score.interval[0]:.1f}-{score.interval[1]:.1f}"
        lines.append(
            f"{score.task:<{width}}{score.rules:<11}{f'{name} {value:.2f}':>18}{between:>15}"
            f"{score.answered:>8}{score.unparsed:>7}{score.truncated:>6}"
        )
        if score.unparsed:
            lines.append(
                f"{'':<14}not read: {score.if_wrong:.2f} if wrong, {score.if_chance:.2f} if answered by chance"
            )
        if score.repeats is not None:
            lines.append(f"{'':<14}{score.repeats}")
        if score.skipped:
            lines.append(f"{'':<14}{score.skipped} questions could not be asked and are in no score")
        left = score.questions - score.answered - score.skipped
        if left:
            lines.append(f"{'':<14}{left} of {score.questions} questions are not answered yet")
    return "\n".join(lines)


def _width(tasks: Iterable[str]) -> int:
    return max([NAME, *(len(task) + 1 for task in tasks)])


def draw_differences(comparisons: Sequence[Comparison]) -> str:
    """Two runs, task by task, with the first answers that changed. `least`: the smallest difference n can show."""
    width = _width(each.task for each in comparisons)
    lines = [f"{'task':<{width}}{AGAINST}"]
    for each in comparisons:
        between = "" if each.interval is None else f"{each.interval[0]:+.1f} to {each.interval[1]:+.1f}"
        least = "" if each.detectable is None else f"{each.detectable:.2f}"
        lines.append(
            f"{each.task:<{width}}{each.first:>8.2f}{each.second:>8.2f}{each.gain:>+8.2f}{between:>16}"
            f"{each.p:>8.4f}{each.questions:>8}{least:>8}"
        )
        better = sum(flip.better for flip in each.flips)
        lines.append(
            f"{'':<14}{each.name}, {each.rules}; {better} answers better, {len(each.flips) - better} worse; "
            f"p by {each.test}"
        )
        if each.left:
            lines.append(f"{'':<14}{each.left} answers of one run only are left out")
        for flip in sorted(each.flips, key=lambda flip: flip.better)[:FLIPS]:
            said = [shorten(verdict.given.answer, 24) for verdict in (flip.before, flip.after)]
            word = "better" if flip.better else "worse"
            lines.append(
                f"{'':<4}{word:<8}{shorten(flip.before.question.id, 20)}: {said[0]!r} -> {said[1]!r}"
            )
    return "\n".join(lines)


def draw_scores(title: str, results: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """A PNG for a README: every task and rule set with its figure, a bar, and its interval.

    Bars are relative to 100, or to the largest end of an interval where a figure may be larger.
    """
    rows = [(task, rules, score) for task, sets in results.items() for rules, score in sets.items()]
    figure = new_figure(9, 0.8 + 0.36 * len(rows))
    axes = figure.subplots()
    for at, (_, _, score) in enumerate(rows):
        value = next(iter(score["figures"].values()))
        low, high = score["interval"] or (value, value)
        full = max(100.0, high)
        axes.barh(at, value / full, color="C0", height=0.6)
        axes.plot([low / full, high / full], [at, at], color="black", linewidth=1.5)
        unread = f", {score['unparsed']} not read" if score["unparsed"] else ""
        between = f" ({low:.1f} to {high:.1f})" if score["interval"] else ""
        told = f"{value:.1f}{between}, n {score['answered']}{unread}"
        axes.text(1.02, at, told, va="center", fontsize=SMALL)
    axes.set_yticks(
        range(len(rows)),
        [f"{task} ({rules})\n{next(iter(score['figures']))}" for task, rules, score in rows],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    style(axes, title, grid="none")
    axes.spines["bottom"].set_visible(False)
    figure.savefig(path)
