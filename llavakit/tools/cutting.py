"""Tools that cut, turn and hide parts of a picture."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Drawn, Original, Picture, Region
from llavakit.tools.opencv import opencv, resized

MOST_SIDE = 4096


def crop(image: Picture, box: Region) -> Answer:
    """Cut a box out of a picture, pixel for pixel. For small details use zoom instead."""
    part = image.pixels_HW3[box.top : box.bottom, box.left : box.right]
    return Answer({"size": [part.shape[1], part.shape[0]]}, (Drawn(part, (box.left, box.top)),))


def zoom(
    image: Original,
    box: Region,
    side: Annotated[
        int, Field(ge=16, le=2048, description="Pixels of the shorter side of the result.")
    ] = 448,
) -> Answer:
    """Look at a box of a picture enlarged, to see or read small details. Cut from the full resolution original."""
    left, top, right, bottom = _at_least(box, 8, image.size)
    width, height = right - left, bottom - top
    scale = side / min(width, height)
    scale = min(scale, MOST_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    part = image.pixels_HW3[top:bottom, left:right]
    # One scale for both sides, or boxes on the result would not come back exactly.
    drawn = Drawn(resized(part, size), (left, top), size[0] / width)
    return Answer({"box": Region(left, top, right, bottom), "scale": round(size[0] / width, 3)}, (drawn,))


def _at_least(box: Region, side: int, size: tuple[int, int]) -> Region:
    """The box grown around its middle to `side` pixels, moved into the picture."""
    edges = []
    for low, high, most in ((box.left, box.right, size[0]), (box.top, box.bottom, size[1])):
        length = min(max(high - low, side), most)
        start = min(max((low + high - length) // 2, 0), most - length)
        edges.append((start, start + length))
    (left, right), (top, bottom) = edges
    return Region(left, top, right, bottom)


def rotate(
    image: Picture,
    degrees: Annotated[float, Field(ge=-360, le=360, description="Counterclockwise.")],
) -> Answer:
    """Turn a picture counterclockwise; the result is large enough for all of it."""
    quarters = degrees / 90
    if quarters == int(quarters):
        return Answer({}, (Drawn(np.rot90(image.pixels_HW3, int(quarters))),))
    cv2 = opencv()
    width, height = image.size
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
    size = int(np.ceil(width * cos + height * sin)), int(np.ceil(width * sin + height * cos))
    turn[:, 2] += ((size[0] - width) / 2, (size[1] - height) / 2)
    turned = cv2.warpAffine(image.pixels_HW3, turn, size, flags=cv2.INTER_CUBIC, borderValue=(127, 127, 127))
    return Answer({}, (Drawn(turned),))


def blur(
    image: Picture,
    boxes: tuple[Region, ...],
    how: Annotated[
        Literal["blur", "pixelate", "black"], Field(description="How the boxes are hidden.")
    ] = "blur",
    margin: Annotated[
        float, Field(ge=0, le=1, description="Added on every side, as a part of the box.")
    ] = 0.15,
) -> Answer:
    """Make boxes of a picture unrecognisable, such as faces or number plates found by another tool."""
    if not boxes:
        raise ToolError("no box was given: nothing would be hidden")
    out = image.pixels_HW3.copy()
    wide = tuple(_wider(box, margin, image.size) for box in boxes)
    for box in wide:
        part = out[box.top : box.bottom, box.left : box.right]
        out[box.top : box.bottom, box.left : box.right] = _hidden(part, how)
    return Answer({"hidden": list(wide)}, (Drawn(out, (0, 0)),))


def _wider(box: Region, part: float, size: tuple[int, int]) -> Region:
    across, down = round(part * (box.right - box.left)), round(part * (box.bottom - box.top))
    return Region(
        max(box.left - across, 0), max(box.top - down, 0),
        min(box.right + across, size[0]), min(box.bottom + down, size[1]),
    )  # fmt: skip


def _hidden(part: np.ndarray, how: str) -> np.ndarray:
    if how == "black":
        return np.zeros_like(part)
    # Six cells across whatever the size: what identifies a face is finer than that, at any resolution.
    height, width = part.shape[:2]
    cells = resized(part, (min(6, width), min(6, height)))
    cv2 = opencv()
    way = cv2.INTER_NEAREST if how == "pixelate" else cv2.INTER_CUBIC
    out: np.ndarray = cv2.resize(cells, (width, height), interpolation=way)
    return out
