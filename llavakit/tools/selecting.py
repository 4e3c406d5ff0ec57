"""Tools that find the outline of a thing, and that take a thing away."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Drawn, Mask, Picture, Point, Region
from llavakit.tools.flow import Flow
from llavakit.tools.opencv import mask_box, opencv, resized, shaded, superpixels
from llavakit.tools.patchmatch import PatchMatch

WORK_SIDE = 640  # outlines are found at this size, and followed at full size by what they are made of
MOST_HOLE = 0.4


def select(
    image: Picture,
    box: Region | None = None,
    inside: tuple[Point, ...] = (),
    outside: tuple[Point, ...] = (),
) -> Answer:
    """Select one thing in a picture by a box around it and/or points on it and beside it: its mask and its box.

    The mask can be given to inpaint.
    """
    if box is None and not inside:
        raise ToolError("say what to select: a box around it, or points inside of it")
    height, width = image.pixels_HW3.shape[:2]
    scale = min(1.0, WORK_SIDE / max(height, width))
    small = resized(image.pixels_HW3, (max(8, round(width * scale)), max(8, round(height * scale))))
    marks_HW = _marks(small.shape[:2], scale, box, inside, outside)
    labels_HW = _superpixels(small)
    _spread(marks_HW, labels_HW)
    found_hw = _cut(small, marks_HW)
    cv2 = opencv()
    found = cv2.resize(found_hw, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    if not found.any():
        raise ToolError("nothing was found there; try a larger box or other points")
    value = {"mask": Mask(found), "box": mask_box(found), "percent": round(100 * float(found.mean()), 2)}
    return Answer(value, (Drawn(shaded(image.pixels_HW3, found), (0, 0)),))


def _marks(
    shape: tuple[int, ...],
    scale: float,
    box: Region | None,
    inside: tuple[Point, ...],
    outside: tuple[Point, ...],
) -> np.ndarray:
    """uint8[h, w] as GrabCut has it: 0 and 1 for certain (outside, inside), 2 and 3 for likely."""
    marks = np.full(shape, 2, np.uint8)
    if box is not None:
        left, top, right, bottom = (round(number * scale) for number in box)
        marks[:] = 0
        marks[top : max(bottom, top + 1), left : max(right, left + 1)] = 3
    for points, value in ((inside, 1), (outside, 0)):
        for point in points:
            row, column = min(int(point.y * scale), shape[0] - 1), min(int(point.x * scale), shape[1] - 1)
            marks[row, column] = value
    return marks


def _superpixels(small_HW3: np.ndarray) -> np.ndarray:
    """int[h, w]: pieces of about one colour (SLIC)."""
    cv2 = opencv()
    lab = cv2.cvtColor(cv2.GaussianBlur(small_HW3, (3, 3), 0), cv2.COLOR_RGB2LAB)
    size = max(6, round((small_HW3.shape[0] * small_HW3.shape[1] / 600) ** 0.5))
    return superpixels(lab, size, adapts=True)[0]


def _spread(marks_HW: np.ndarray, labels_HW: np.ndarray) -> None:
    """What is said of a pixel holds for its whole piece: a point is too little to learn colours from."""
    for value in (1, 0):
        rows, columns = np.nonzero(marks_HW == value)
        if value == 0 and len(rows) > 1000:  # all that is outside of a box was meant pixel by pixel
            continue
        for label in np.unique(labels_HW[rows, columns]):
            piece = labels_HW == label
            marks_HW[piece & (marks_HW > 1)] = value


def _cut(small_HW3: np.ndarray, marks_HW: np.ndarray) -> np.ndarray:
    """float32[h, w]: 1 inside."""
    cv2 = opencv()
    if not np.isin(marks_HW, (0, 2)).any():
        raise ToolError("the box is the whole picture; there is nothing to tell the thing from")
    cv2.setRNGSeed(0)  # the same call, the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(small_HW3[..., ::-1]), marks_HW, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(marks_HW, (1, 3)).astype(np.float32)


def inpaint(
    image: Picture,
    mask: Mask | None = None,
    boxes: tuple[Region, ...] = (),
    grow: Annotated[int, Field(ge=0, le=64, description="Pixels by which the hole is made wider.")] = 4,
    how: Annotated[
        Literal["texture", "smooth"],
        Field(description="texture: patches from elsewhere in the picture; smooth: colors flow in, at once."),
    ] = "texture",
) -> Answer:
    """Remove what a mask or boxes cover, and fill the hole from what is around it (PatchMatch, Navier-Stokes).

    Nothing new is invented: for things on a ground that goes on behind them.
    """
    hole = np.zeros(image.pixels_HW3.shape[:2], np.uint8) if mask is None else mask.inside_HW.astype(np.uint8)
    for box in boxes:
        hole[box.top : box.bottom, box.left : box.right] = 1
    if not hole.any():
        raise ToolError("say what to remove: a mask that select or salient made, or boxes")
    cv2 = opencv()
    if grow:
        hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1)))
    if hole.mean() > MOST_HOLE:
        raise ToolError(
            f"the hole is {100 * float(hole.mean()):.0f} % of the picture; at most 40 % can be filled"
        )
    filler = PatchMatch() if how == "texture" else Flow()
    out = filler.fill(image.pixels_HW3, hole > 0)
    return Answer({"percent": round(100 * float(hole.mean()), 2)}, (Drawn(out, (0, 0)),))
