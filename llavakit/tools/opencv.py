"""OpenCV, and what several tools do with it. Imported when it is used: by the editor, and by tools' processes."""

from typing import Any

import numpy as np

from llavakit.core.errors import ConfigError
from llavakit.tools.arguments import Region

INSTALL = "pip install 'llavakit[tools]'"  # or [studio], where nothing else of it is wanted


def opencv() -> Any:
    """The module cv2. ConfigError with the line that installs it."""
    try:
        import cv2
    except ImportError:
        raise ConfigError(f"OpenCV is not here: {INSTALL}") from None
    return cv2


def gray(pixels_HW3: np.ndarray) -> np.ndarray:
    """uint8[h, w]."""
    grey: np.ndarray = opencv().cvtColor(pixels_HW3, opencv().COLOR_RGB2GRAY)
    return grey


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (width, height): averaged where it gets smaller, bicubic where it gets larger."""
    cv2 = opencv()
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    out: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return out


def superpixels(lab_HW3: np.ndarray, side: int, *, adapts: bool) -> tuple[np.ndarray, int]:
    """int32[h, w] and how many: pieces of about one colour with `side` pixels on a side (SLIC).

    One that `adapts` is as compact as its texture lets it be (SLICO).
    """
    cv2 = opencv()
    kind = cv2.ximgproc.SLICO if adapts else cv2.ximgproc.SLIC
    slic = cv2.ximgproc.createSuperpixelSLIC(lab_HW3, kind, side, 10.0)
    slic.iterate(6)
    slic.enforceLabelConnectivity(25)
    return slic.getLabels(), int(slic.getNumberOfSuperpixels())


def mask_box(inside_HW: np.ndarray) -> Region:
    """The smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(inside_HW.any(axis=1)), np.flatnonzero(inside_HW.any(axis=0))
    return Region(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def shaded(pixels_HW3: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    """The picture with everything outside of a mask darkened to a quarter."""
    return np.where(inside_HW[..., None], pixels_HW3, pixels_HW3 // 4)


def apart(boxes_N4: np.ndarray, scores_N: np.ndarray, overlap: float, inside: float = 1.0) -> list[int]:
    """Which boxes stay, the surest first, when of two that overlap (IoU) by more than this one goes.

    One of which a larger part than `inside` lies in the other (or the other way round) goes too.
    """
    order, kept = np.argsort(-scores_N, kind="stable"), []
    areas = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low = np.maximum(boxes_N4[first, :2], boxes_N4[rest, :2])
        high = np.minimum(boxes_N4[first, 2:], boxes_N4[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[first] + areas[rest] - shared
        order = rest[(shared <= overlap * union) & (shared <= inside * np.minimum(areas[first], areas[rest]))]
    return kept


def region(box: np.ndarray, size: tuple[int, int]) -> Region:
    """Whole pixels of a picture of `size` around a box of floats; at least one."""
    left, top = (min(max(int(box[axis]), 0), size[axis] - 1) for axis in (0, 1))
    right, bottom = (min(max(int(np.ceil(box[axis + 2])), 1), size[axis]) for axis in (0, 1))
    return Region(left, top, max(right, left + 1), max(bottom, top + 1))
