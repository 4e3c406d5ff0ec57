"""Krippendorff's alpha: how far several annotators agree beyond chance, whoever judged what.

1 is perfect, 0 what chance gives. K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Metric = Literal["nominal", "ordinal"]


def krippendorff_alpha(units: Sequence[Sequence[int]], metric: Metric) -> float | None:
    """Alpha of units, each with the values that its annotators gave (missing ones left out, in any order).

    None where it is not defined: no unit has two values, or only one value was ever given.
    """
    paired = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in paired for value in unit})
    place = {value: number for number, value in enumerate(values)}
    coincidences_VV = np.zeros((len(values), len(values)))
    for unit in paired:
        counts_V = np.bincount([place[value] for value in unit], minlength=len(values)).astype(float)
        coincidences_VV += (np.outer(counts_V, counts_V) - np.diag(counts_V)) / (len(unit) - 1)
    totals_V = coincidences_VV.sum(axis=0)
    distance_VV = _distances(totals_V, metric)
    expected = float(totals_V @ distance_VV @ totals_V)
    if expected == 0:
        return None
    return 1 - float((totals_V.sum() - 1) * (coincidences_VV * distance_VV).sum() / expected)


def _distances(totals_V: np.ndarray, metric: Metric) -> np.ndarray:
    """[V, V]: how much two values differ, squared; of ranks by how many values lie between them."""
    if metric == "nominal":
        return 1 - np.eye(len(totals_V))
    middles_V = np.cumsum(totals_V) - totals_V / 2
    return np.square(middles_V[:, None] - middles_V[None, :])
