"""Cutting a thing out of a picture: a soft edge that follows the picture, in the thing's own colours."""

from dataclasses import dataclass

import numpy as np

from llavakit.studio.tiles import Pixels, nonzero_box
from llavakit.tools.opencv import opencv

BAND = 3  # pixels on either side of a mask's edge that may be partly thing, partly background
EDGE = 20.0**2  # of the guided filter, in squared grey levels: what counts as an edge of the picture
LEAST = 0.08  # of alpha: below it a pixel's colour says nothing of the thing


@dataclass(frozen=True)
class Cut:
    """A thing in uint8[h, w, 4], and where its corner was."""

    at: tuple[int, int]
    rgba: Pixels


def cut_out(rgba: Pixels, mask: Pixels, behind: Pixels | None) -> Cut:
    """The thing under a mask. `behind`: the picture without it, or None where there is no such picture."""
    alpha = soften(rgba[..., :3], mask)
    colour = rgba[..., :3] if behind is None else own_colours(rgba[..., :3], alpha, behind[..., :3])
    alpha = np.rint(alpha * rgba[..., 3]).astype(np.uint8)
    box = nonzero_box(alpha)
    if box is None:
        box = (0, 0, 1, 1)
    left, top, right, bottom = box
    out = np.concatenate((colour, alpha[..., None]), axis=-1)[top:bottom, left:right]
    out[out[..., 3] == 0] = 0
    return Cut((left, top), out)


def soften(rgb: Pixels, mask: Pixels) -> np.ndarray:
    """float32[h, w], 0 to 1: the mask with its edge drawn again where the picture has one (guided filter, He 2010).

    A mask that is soft already stays as it is: somebody chose its softness.
    """
    hard = (mask == 0) | (mask == 255)
    if hard.mean() < 1 - 8 * edge_share(mask):
        return mask.astype(np.float32) / 255
    cv2 = opencv()
    binary = np.uint8(mask >= 128)
    near = np.minimum(
        cv2.distanceTransform(binary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE),
        BAND,
    ) - np.minimum(cv2.distanceTransform(1 - binary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), BAND)
    guided = cv2.ximgproc.guidedFilter(rgb, binary.astype(np.float32), BAND, EDGE)
    ramp = np.clip(near / BAND / 2 + 0.5, 0, 1)  # 0 and 1 at the band's borders: no step there
    sure = np.abs(near) >= BAND
    return np.where(sure, binary, np.clip(guided, 0, 1) * 0.5 + ramp * 0.5).astype(np.float32)


def edge_share(mask: Pixels) -> float:
    """The share of pixels that an edge of one pixel would have."""
    inside = mask >= 128
    return float((inside[:, 1:] != inside[:, :-1]).mean() + (inside[1:] != inside[:-1]).mean() + 1e-6)


def own_colours(rgb: Pixels, alpha: np.ndarray, behind: Pixels) -> Pixels:
    """The colours a thing would have alone: pixel = alpha thing + (1 - alpha) behind, solved for the thing.

    Where alpha is small that says little, and the colours of the thing's inside are carried outward instead.
    """
    share = alpha[..., None]
    solved = (rgb.astype(np.float32) - (1 - share) * behind) / np.maximum(share, LEAST)
    weight = (alpha >= 0.98).astype(np.float32)
    cv2 = opencv()
    size = (4 * BAND + 1, 4 * BAND + 1)
    total = cv2.GaussianBlur(weight, size, BAND)[..., None]
    carried = cv2.GaussianBlur(rgb * weight[..., None], size, BAND) / np.maximum(total, 1e-3)
    trust = np.clip((share - 0.2) / 0.6, 0, 1) * (total > 1e-3) + (total <= 1e-3)
    mixed = trust * np.clip(solved, 0, 255) + (1 - trust) * carried
    return np.where(share >= 0.98, rgb, np.rint(np.clip(mixed, 0, 255)).astype(np.uint8))
