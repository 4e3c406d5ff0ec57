"""Boxes in answers (RefCOCO): [left, top, right, bottom] from 0 to 1."""

import re
from collections.abc import Sequence

NUMBER = r"\s*(-?\d+(?:\.\d+)?)"
BOX = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\s*\]")


def read_box(answer: str) -> tuple[float, float, float, float] | None:
    """The first four numbers in brackets; a comma follows its number at once (lmms-eval)."""
    found = BOX.search(answer)
    if found is None:
        return None
    left, top, right, bottom = map(float, found.groups())
    return left, top, right, bottom


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union; 0 for two boxes without any area."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    union = _area(one) + _area(other) - width * height
    return width * height / union if union else 0.0


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def box_figures(answer: str, reference: Sequence[float]) -> dict[str, float]:
    """IoU, whether it is at least one half, and whether the middle of the answer lies in the reference.

    What has no box is the empty box at the origin, as lmms-eval counts it.
    """
    box = read_box(answer) or (0.0, 0.0, 0.0, 0.0)
    overlap = iou(reference, box)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = reference[0] <= x <= reference[2] and reference[1] <= y <= reference[3]
    return {"iou": overlap, "acc05": float(overlap >= 0.5), "center": float(inside)}
