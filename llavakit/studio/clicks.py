"""The click protocol of interactive segmentation (RITM, arXiv 2102.06583), for any PromptSegmenter.

The first click is the middle of the object; each further one the middle of the largest wrong region, inside or out.
NoC@85 is the number of clicks until the mask has an IoU of 85 %; most clicks where it never has.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llavakit.core.errors import DataError
from llavakit.core.files import write_text
from llavakit.studio.engines import Mark, Prompts, PromptSegmenter
from llavakit.studio.looking import SceneView
from llavakit.studio.masks import INSIDE
from llavakit.studio.scene import Layer, Scene
from llavakit.studio.tiles import Pixels, raster_of
from llavakit.tools.opencv import opencv

MOST = 20
WANTED = (0.85, 0.9)
AFTER = (1, 3, 5)


@dataclass(frozen=True)
class Thing:
    """An object on a picture: uint8[h, w, 3], bool[h, w], and where nobody says what is right, bool[h, w]."""

    name: str
    rgb: Pixels
    inside: Pixels
    ignored: Pixels | None = None


@dataclass(frozen=True)
class Rounds:
    """What clicks led to: the IoU after each, which stays where nothing is wrong any more, and its seconds.

    `prepared`: the seconds before the first click.
    """

    name: str
    iou: tuple[float, ...]
    seconds: tuple[float, ...]
    prepared: float

    def clicks_to(self, wanted: float) -> int:
        """NoC@wanted."""
        return next((number for number, iou in enumerate(self.iou, 1) if iou >= wanted), len(self.iou))

    @property
    def worst_step(self) -> float:
        """The most that one added click cost."""
        return max((a - b for a, b in zip(self.iou, self.iou[1:], strict=False)), default=0.0)


def click_rounds(segmenter: PromptSegmenter, thing: Thing, most: int = MOST) -> Rounds:
    """Click on one thing as the protocol does."""
    pixels = np.dstack((thing.rgb, np.full(thing.rgb.shape[:2], 255, np.uint8)))
    raster = raster_of(pixels)
    view = SceneView(Scene(raster.size, (Layer(0, thing.name, "photo", raster),)))
    started = time.perf_counter()
    for step in segmenter.steps(view):
        step.run()
    prepared = time.perf_counter() - started
    mask = np.zeros(thing.inside.shape, bool)
    marks: list[Mark] = []
    ious: list[float] = []
    seconds: list[float] = []
    for number in range(most):
        if number and ious[-1] == 1.0:  # nothing is wrong that could be clicked on
            ious += [1.0] * (most - number)
            break
        x, y, inside = next_click(mask, thing)
        marks.append(Mark(((x + 0.5, y + 0.5),), 1.0, inside))
        before = np.uint8(255) * mask if number else None
        started = time.perf_counter()
        found = segmenter.segment(view, Prompts(tuple(marks), before=before))
        seconds.append(time.perf_counter() - started)
        mask = np.zeros(thing.inside.shape, bool)
        if found:
            left, top = found[0].at
            part = found[0].mask >= INSIDE
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        ious.append(overlap(mask, thing))
    return Rounds(thing.name, tuple(ious), tuple(seconds), prepared)


def next_click(mask: Pixels, thing: Thing) -> tuple[int, int, bool]:
    """(x, y, inside): the middle of the largest wrong region."""
    counts = np.ones_like(mask) if thing.ignored is None else ~thing.ignored
    cv2, found = opencv(), []
    for wrong in (thing.inside & ~mask & counts, mask & ~thing.inside & counts):
        depth = cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 0)[1:-1, 1:-1]
        found.append((float(depth.max()), np.unravel_index(int(depth.argmax()), depth.shape)))
    inside = found[0][0] >= found[1][0]
    y, x = found[0 if inside else 1][1]
    return int(x), int(y), inside


def overlap(mask: Pixels, thing: Thing) -> float:
    """IoU where it is known what is right."""
    counts = np.ones_like(mask) if thing.ignored is None else ~thing.ignored
    either = int(((mask | thing.inside) & counts).sum())
    return int((mask & thing.inside & counts).sum()) / either if either else 1.0


def figures(rounds: Sequence[Rounds]) -> dict[str, float]:
    """Means over things; `worst_step`: the most that one added click cost anywhere; seconds per click."""
    every = np.array([second for each in rounds for second in each.seconds])
    said = {
        f"noc{100 * wanted:.0f}": float(np.mean([r.clicks_to(wanted) for r in rounds])) for wanted in WANTED
    }
    said |= {
        f"iou_{number}": float(np.mean([r.iou[min(number, len(r.iou)) - 1] for r in rounds]))
        for number in AFTER
    }
    return said | {
        "worst_step": max(each.worst_step for each in rounds),
        "seconds_median": float(np.median(every)),
        "seconds_p95": float(np.percentile(every, 95)),
        "seconds_prepare": float(np.mean([each.prepared for each in rounds])),
    }


def measure_clicks(
    segmenter: PromptSegmenter, things: Iterator[Thing], *, most: int = MOST, limit: int | None = None
) -> Iterator[Rounds]:
    """The rounds of each thing; things without a pixel inside are passed over."""
    for number, thing in enumerate(things):
        if limit is not None and number >= limit:
            return
        if thing.inside.any():
            yield click_rounds(segmenter, thing, most)


def write_rounds(rounds: Sequence[Rounds], path: Path) -> None:
    """Figures and every round as JSON."""
    if not rounds:
        raise DataError("no object was found to click on", path=path)
    said: dict[str, Any] = {"figures": figures(rounds), "things": [asdict(each) for each in rounds]}
    write_text(path, json.dumps(said, indent=1) + "\n")
