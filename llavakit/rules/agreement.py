"""How far a judge agrees with people: correlations, accuracy with and without ties, liking for a place or length.

Of one answer `said` and `label` are scores. Of two they are margins: by how much the second is better, 0 a tie.
None is what could not be read: it is right nowhere, in no correlation, and counted by who calls.
"""

from collections.abc import Sequence

import numpy as np

from llavakit.core.errors import ConfigError
from llavakit.rules.means import mean, of_groups

Figures = dict[str, float]
Said = Sequence[float | None]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """The linear correlation; 0 where one of them does not vary."""
    if len(a) < 2 or min(a) == max(a) or min(b) == max(b):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b, which allows for ties; 0 where one of them does not vary."""
    if len(a) < 2 or min(a) == max(a) or min(b) == max(b):
        return 0.0
    try:
        from scipy.stats import kendalltau
    except ImportError:
        raise ConfigError("Kendall's tau needs scipy: pip install 'llavakit[eval]'") from None
    return float(kendalltau(a, b).statistic)


def score_figures(said: Said, labels: Sequence[float], lengths: Sequence[int]) -> Figures:
    """Of scores: correlations with the labels; how scores go with length beside how the labels do."""
    rows = [row for row in zip(said, labels, lengths, strict=True) if row[0] is not None]
    scores, given, long = ([float(row[at] or 0) for row in rows] for at in range(3))
    return {
        "pearson": pearson(scores, given),
        "kendall": kendall(scores, given),
        "length pearson": pearson(scores, long),
        "labels' length pearson": pearson(given, long),
    }


def pair_figures(said: Said, labels: Sequence[float], longer: Sequence[int]) -> Figures:
    """Of margins, shares from 0 to 1. `longer` is by how many characters the second answer is longer.

    `accuracy` is of all pairs, a tie being one of three verdicts; `without ties` of those whose label has a winner;
    `longer` is the share of verdicts with a winner that fell on the longer answer, beside that of the labels.
    """
    rows = list(zip(said, labels, longer, strict=True))
    read = [(value, label) for value, label, _ in rows if value is not None]
    won = [row for row in rows if row[1] != 0]
    return {
        "accuracy": mean([float(_right(value, label)) for value, label, _ in rows]),
        "without ties": mean([float(_right(value, label)) for value, label, _ in won]),
        "kendall": kendall([float(value) for value, _ in read], [label for _, label in read]),
        "longer": _on_longer([(value, more) for value, _, more in rows if value is not None]),
        "labels' longer": _on_longer([(label, more) for _, label, more in rows]),
    }


def _right(value: float | None, label: float) -> bool:
    return value is not None and sign(value) == sign(label)


def _on_longer(rows: Sequence[tuple[float, int]]) -> float:
    return mean([float(sign(value) == sign(more)) for value, more in rows if value and more])


def position_figures(orders: Sequence[tuple[float | None, float | None]]) -> Figures:
    """Of pairs shown in both orders. Margins are in the order of the case, whichever way it was shown.

    `agreement` is the share of pairs, among those read both ways, whose two verdicts are the same. `first` is the
    share of verdicts with a winner that fell on the answer shown first: 0.5 where the place plays no part.
    """
    both = [(one, two) for one, two in orders if one is not None and two is not None]
    shown_first = [one < 0 for one, _ in orders if one] + [two > 0 for _, two in orders if two]
    return {
        "agreement": mean([float(sign(one) == sign(two)) for one, two in both]),
        "first": mean([float(first) for first in shown_first]),
    }


def group_accuracy(said: Said, labels: Sequence[float], groups: Sequence[str]) -> Figures:
    """Shares of right verdicts, as VL-RewardBench and Multimodal RewardBench give them: overall, macro, each group.

    `macro` is the mean of the groups' own.
    """
    rows = [
        (group, float(_right(value, label))) for value, label, group in zip(said, labels, groups, strict=True)
    ]
    figures = {"overall": mean([right for _, right in rows]), "macro": of_groups(rows)}
    for group in dict.fromkeys(groups):
        figures[group or "(no group)"] = mean([right for name, right in rows if name == group])
    return figures
