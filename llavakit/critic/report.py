"""How good a judge is: its verdicts in a file against the labels of the cases; what place and length do to it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llavakit.core.errors import DataError
from llavakit.core.journal import Row, read_journal
from llavakit.rules.agreement import (
    Figures,
    group_accuracy,
    pair_figures,
    position_figures,
    score_figures,
    sign,
)
from llavakit.rules.means import mean
from llavakit.rules.rankings import ranking_figures

FIELDS = ("id", "swapped", "value", "problem", "label", "group", "lengths", "run")


@dataclass(frozen=True)
class Report:
    """Figures of a judge by the way its verdicts are combined, and what they leave out."""

    judge: str
    format: str
    cases: int  # with a label
    unlabelled: int
    problems: Mapping[str, int]  # verdicts that are missing, by why
    figures: Mapping[str, Figures]  # "one order", "both orders", ...


def read_report(path: Path) -> Report:
    """The report of a file that `judge_file` wrote; the last row of an ask counts. DataError for other files."""
    kept: dict[tuple[str, bool], Row] = {}
    for number, row in enumerate(read_journal(path), 1):
        missing = [name for name in FIELDS if name not in row]
        if missing:
            raise DataError(f"not a verdict: no {missing[0]!r}", path=path, line=number)
        kept[row["id"], row["swapped"]] = row
    labelled = {key: row for key, row in kept.items() if row["label"] is not None}
    first = [row for (_, swapped), row in labelled.items() if not swapped]
    if not first:  # or the run was stopped when the other order of some had come
        raise DataError("no case in the order of the file has a label to compare with", path=path)
    run = first[0]["run"]
    figures: Mapping[str, Figures]
    if isinstance(first[0]["label"], str):
        figures = _of_rankings(first)
    elif any(len(row["lengths"]) != 1 for row in first):
        figures = _of_pairs(first, labelled)
    else:
        figures = {"scores": _of_scores(first)}
    return Report(
        str(run.get("judge")), str(run.get("format")), len(first), sum(not key[1] for key in kept) - len(first),
        Counter(row["problem"] for row in kept.values() if row["problem"]), figures,
    )  # fmt: skip


def _of_rankings(rows: Sequence[Row]) -> dict[str, Figures]:
    return {
        "rankings": ranking_figures(
            [row["value"] for row in rows], [row["label"] for row in rows], [row["group"] for row in rows]
        )
    }


def _of_scores(rows: Sequence[Row]) -> Figures:
    return score_figures(
        [row["value"] for row in rows], [row["label"] for row in rows], [row["lengths"][0] for row in rows]
    )


def _of_pairs(first: Sequence[Row], rows: Mapping[tuple[str, bool], Row]) -> dict[str, Figures]:
    """Figures of the order of the file alone, and, where both were asked, of the two together."""
    one = [row["value"] for row in first]
    figures = {"one order": _against(one, first)}
    if any(swapped for _, swapped in rows):
        other = [rows[row["id"], True]["value"] if (row["id"], True) in rows else None for row in first]
        orders = list(zip(one, other, strict=True))
        figures |= {
            "swapped order": _against(other, first),
            "mean of both": _against([averaged(*pair) for pair in orders], first),
            "both agree": _against([agreed(*pair) for pair in orders], first),
            "position": position_figures(orders),
        }
    return figures


def _against(values: Sequence[float | None], rows: Sequence[Row]) -> Figures:
    labels = [row["label"] for row in rows]
    longer = [row["lengths"][1] - row["lengths"][0] if len(row["lengths"]) == 2 else 0 for row in rows]
    figures = pair_figures(values, labels, longer)
    groups = [row["group"] for row in rows]
    if len(set(groups)) > 1:
        figures |= {
            f"by group: {name}": value for name, value in group_accuracy(values, labels, groups).items()
        }
    return figures


def averaged(one: float | None, other: float | None) -> float | None:
    """The mean of the margins of two orders; nothing where one was not read."""
    return None if one is None or other is None else mean([one, other])


def agreed(one: float | None, other: float | None) -> float | None:
    """A winner only if both orders name it, else a tie; nothing where one was not read."""
    mean_margin = averaged(one, other)
    if mean_margin is None or one is None or other is None:
        return None
    return mean_margin if sign(one) == sign(other) else 0.0


def draw_report(report: Report) -> str:
    """The report as lines of at most 80 columns."""
    lines = [f"{report.judge}, format {report.format}: {report.cases} cases with a label"]
    if report.unlabelled:
        lines.append(f"{report.unlabelled} cases have no label and are left out")
    if report.problems:
        told = ", ".join(f"{count} {name}" for name, count in sorted(report.problems.items()))
        lines.append(f"verdicts that are missing, right nowhere: {told}")
    for name, figures in report.figures.items():
        lines.append(name)
        lines += [f"  {figure:<34}{value:>8.3f}" for figure, value in figures.items()]
    return "\n".join(lines)
