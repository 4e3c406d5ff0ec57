"""Tools that measure what is in a picture: colours, distances, things that stand apart, edges, repetitions."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Drawn, Picture, Point, Region
from llavakit.tools.blobs import find_blobs
from llavakit.tools.color_names import COLORS, nearest_colors
from llavakit.tools.opencv import gray, opencv, resized

MOST_FOUND = 200
WORK_PIXELS = 2_000_000  # larger pictures are measured at this size


def measure(image: Picture, points: tuple[Point, ...]) -> Answer:
    """Distances in pixels along a path of points, and the angle at every point between two others."""
    if len(points) < 2:
        raise ToolError("a distance needs at least two points")
    steps = np.diff(np.asarray(points), axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    angles = []
    for before, after in zip(-steps[:-1], steps[1:], strict=True):
        turn = np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0])
        angle = abs(np.degrees(turn)) % 360
        angles.append(round(float(min(angle, 360 - angle)), 2))
    said: dict[str, Any] = {
        "pixels": [round(float(one), 2) for one in lengths],
        "total_pixels": round(float(lengths.sum()), 2),
    }
    if angles:
        said["degrees"] = angles
    return Answer(said)


def colors(image: Picture, box: Region | None = None) -> Answer:
    """The colors of a picture or of a box of it, by name, with their share in percent, and the mean color."""
    pixels = _part(image, box).reshape(-1, 3)
    if len(pixels) > WORK_PIXELS:
        pixels = pixels[:: len(pixels) // WORK_PIXELS + 1]
    counts = np.bincount(nearest_colors(pixels), minlength=len(COLORS))
    names = list(COLORS)
    shares = {
        names[index]: round(100 * float(counts[index]) / len(pixels), 1)
        for index in np.argsort(-counts, kind="stable")
        if counts[index] / len(pixels) >= 0.001
    }
    mean = pixels.mean(axis=0)
    return Answer({"percent": shares, "mean": "#" + "".join(f"{round(float(one)):02x}" for one in mean)})


def count_shapes(
    image: Picture,
    box: Region | None = None,
    color: Annotated[
        str | None, Field(max_length=20, description="Only shapes of this color, such as red.")
    ] = None,
    smallest: Annotated[
        float, Field(ge=0, le=100, description="Least area of a shape, in percent of the picture.")
    ] = 0.02,
) -> Answer:
    """Count the separate shapes of one color on a plain background, with the box and color of each.

    For drawings, icons, cells and coins; for things in photos use a detector.
    """
    if color is not None and color not in COLORS:
        raise ToolError(f"unknown color {color!r}; there are: {', '.join(COLORS)}")
    part = _part(image, box)
    corner = (0, 0) if box is None else (box.left, box.top)
    shrink = min(1.0, (WORK_PIXELS / (part.shape[0] * part.shape[1])) ** 0.5)
    if shrink < 1:
        part = resized(part, (max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))))
    labels = nearest_colors(part.reshape(-1, 3)).reshape(part.shape[:2]).astype(np.uint8)
    names = list(COLORS)
    ground = _ground(labels)
    wanted = None if color is None else names.index(color)
    least = max(4.0, smallest / 100 * labels.size)
    found = [
        (*one.box, one.area, names[one.color])
        for one in find_blobs(part, labels, ground, least)
        if wanted in (None, one.color)
    ]
    found.sort(key=lambda one: (one[1], one[0]))
    shapes = [
        {
            "color": name,
            "box": _region(corner, shrink, left, top, width, height),
            "percent": round(100 * area / labels.size, 2),
        }
        for left, top, width, height, area, name in found
    ]
    by_color = {name: sum(one[5] == name for one in found) for name in sorted({one[5] for one in found})}
    said = {
        "count": len(found),
        "by_color": by_color,
        "background": names[ground],
        "shapes": shapes[:MOST_FOUND],
    }
    return Answer(said)


def _ground(labels_HW: np.ndarray) -> int:
    """The commonest color along the border."""
    border = np.concatenate([labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]])
    return int(np.bincount(border).argmax())


def _region(corner: tuple[int, int], shrink: float, left: int, top: int, width: int, height: int) -> Region:
    return Region(
        corner[0] + round(left / shrink), corner[1] + round(top / shrink),
        corner[0] + round((left + width) / shrink), corner[1] + round((top + height) / shrink),
    )  # fmt: skip


def find_pattern(
    image: Picture,
    box: Region,
    likeness: Annotated[float, Field(ge=0.3, le=1, description="How alike they have to be.")] = 0.8,
) -> Answer:
    """Find everything in a picture that looks like what is in a box of it, at the same size and angle."""
    cv2 = opencv()
    grey = gray(image.pixels_HW3)
    shrink = min(1.0, (WORK_PIXELS / grey.size) ** 0.5)
    if shrink < 1:
        grey = resized(grey, (round(grey.shape[1] * shrink), round(grey.shape[0] * shrink)))
    left, top, right, bottom = (round(number * shrink) for number in box)
    pattern = grey[top:bottom, left:right]
    if min(pattern.shape) < 4 or int(pattern.max()) - int(pattern.min()) < 4:
        raise ToolError("the box is too small or all of one color; there is nothing to look for")
    scores = cv2.matchTemplate(grey, pattern, cv2.TM_CCOEFF_NORMED)
    height, width = pattern.shape
    found: list[dict[str, Any]] = []
    while len(found) < MOST_FOUND:
        y, x = np.unravel_index(int(np.argmax(scores)), scores.shape)
        score = float(scores[y, x])
        if not score >= likeness:
            break
        found.append(
            {"box": _region((0, 0), shrink, int(x), int(y), width, height), "score": round(score, 3)}
        )
        scores[
            max(y - height // 2, 0) : y + height // 2 + 1, max(x - width // 2, 0) : x + width // 2 + 1
        ] = -1
    return Answer({"count": len(found), "found": found})


def edges(
    image: Picture,
    strength: Annotated[int, Field(ge=1, le=255, description="Weaker edges than this are left out.")] = 100,
) -> Answer:
    """The outlines in a picture as a new picture, white on black."""
    cv2 = opencv()
    lines = cv2.Canny(gray(image.pixels_HW3), strength / 2, strength)
    share = round(100 * float((lines > 0).mean()), 2)
    return Answer({"percent": share}, (Drawn(cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB), (0, 0)),))


def _part(image: Picture, box: Region | None) -> np.ndarray:
    return image.pixels_HW3 if box is None else image.pixels_HW3[box.top : box.bottom, box.left : box.right]
