"""Connected pieces of one color that are shapes, and not the soft rim that another shape has against the ground."""

from dataclasses import dataclass

import numpy as np

from llavakit.tools.opencv import opencv

LEAST = 4  # pixels of a piece that is looked at
FILLED = 0.2  # of its box, at least: less is a scratch across the picture
RIM = 3  # pixels: a soft edge is at most so thick on either side of its middle, and so near to its shape
CLOSE = 0.7  # of a rim's pixels lie so near to its shape
MIXED = 45.0  # RGB by which a rim's color may miss the line between those of its shape and of the ground


@dataclass(frozen=True)
class Blob:
    """A piece: its color by number, its box (left, top, width, height), its pixels, and how thick it is."""

    number: int
    color: int
    box: tuple[int, int, int, int]
    area: int
    radius: float  # of the largest circle inside of it
    mean_3: np.ndarray  # RGB


def find_blobs(pixels_HW3: np.ndarray, colors_HW: np.ndarray, ground: int, least: float) -> list[Blob]:
    """The pieces of at least `least` pixels, whose colors are `colors_HW` (uint8); `ground` is no piece."""
    numbers_HW, blobs = _pieces(pixels_HW3, colors_HW, ground)
    ground_3 = pixels_HW3[colors_HW == ground].mean(axis=0)
    return [
        one
        for one in blobs.values()
        if one.area >= least
        and one.area >= FILLED * one.box[2] * one.box[3]
        and min(one.box[2:]) > 2
        and not _is_rim(one, numbers_HW, blobs, ground_3)
    ]


def _pieces(pixels_HW3: np.ndarray, colors_HW: np.ndarray, ground: int) -> tuple[np.ndarray, dict[int, Blob]]:
    """int[h, w]: the number of the piece that a pixel is of, 0 for the ground; and the pieces worth a look."""
    cv2, blobs, first = opencv(), dict[int, Blob](), 0
    numbers_HW = np.zeros(colors_HW.shape, np.int32)
    for color in np.unique(colors_HW):
        if color == ground:
            continue
        inside_HW = colors_HW == color
        mask_HW = inside_HW.astype(np.uint8)
        count, own_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
        numbers_HW[inside_HW] = own_HW[inside_HW] + first
        own_N, radii = own_HW[inside_HW], np.zeros(count)
        np.maximum.at(radii, own_N, cv2.distanceTransform(mask_HW, cv2.DIST_L2, 3)[inside_HW])
        sums_K3 = np.stack([np.bincount(own_N, part_N, count) for part_N in pixels_HW3[inside_HW].T], axis=1)
        for at in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= LEAST):
            if at:  # 0 is all that has another color
                *box, area = stats[at].tolist()
                number = first + int(at)
                blobs[number] = Blob(
                    number, int(color), tuple(box), area, float(radii[at]), sums_K3[at] / area
                )
        first += count
    return numbers_HW, blobs


def _is_rim(blob: Blob, numbers_HW: np.ndarray, blobs: dict[int, Blob], ground_3: np.ndarray) -> bool:
    """Whether it is thin, lies along a thicker piece, and has a color between that one's and the ground's."""
    if blob.radius > RIM:
        return False
    left, top, width, height = blob.box
    near = numbers_HW[max(top - RIM, 0) : top + height + RIM, max(left - RIM, 0) : left + width + RIM]
    own = near == blob.number
    cv2 = opencv()
    ring = np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)
    for number in np.unique(near[(near > 0) & ~own]):
        other = blobs.get(int(number))
        if (
            other is None
            or other.radius <= blob.radius
            or _off_line(blob.mean_3, other.mean_3, ground_3) > MIXED
        ):
            continue
        beside = cv2.dilate((near == number).astype(np.uint8), ring).astype(bool)
        if beside[own].mean() >= CLOSE:
            return True
    return False


def _off_line(point_3: np.ndarray, start_3: np.ndarray, end_3: np.ndarray) -> float:
    """How far a color is from the line between two others."""
    along = end_3 - start_3
    share = float(np.clip((point_3 - start_3) @ along / max(float(along @ along), 1e-9), 0, 1))
    return float(np.linalg.norm(point_3 - start_3 - share * along))
