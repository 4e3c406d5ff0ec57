"""The shadow of a thing: what lies beside it, is darker than its surroundings and has their colour."""

import numpy as np

from llavakit.studio.tiles import Pixels
from llavakit.tools.opencv import opencv

REACH = 0.8  # of the thing's longer side: how far its shadow is looked for
SIDE = 512  # pixels at which it is looked for
DARKER = 0.88  # of the lightness around: less is shadow
SAME_COLOUR = 14.0  # of Lab's a and b: more is another thing
SOFT = 3  # pixels, at that size, by which it is made wider: shadows end slowly


def shadow_of(rgb: Pixels, inside: Pixels) -> Pixels:
    """bool[h, w]: the shadow of what is `inside`, bool[h, w]; empty where there is none."""
    cv2 = opencv()
    factor = min(1.0, SIDE / max(inside.shape))
    size = max(1, round(inside.shape[1] * factor)), max(1, round(inside.shape[0] * factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    thing = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    rows, columns = np.nonzero(thing)
    if not len(rows):
        return np.zeros_like(inside)
    reach = REACH * max(np.ptp(rows) + 1, np.ptp(columns) + 1)
    away = cv2.distanceTransform((~thing).astype(np.uint8), cv2.DIST_L2, 3)
    lab = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 1.5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    around = (away > 2) & (away < reach)
    if not around.any():
        return np.zeros_like(inside)
    # The ground is what is light around the thing: a shadow is the darker part of it.
    light, ground = lab[..., 0], lab[around]
    lit = ground[ground[:, 0] >= np.median(ground[:, 0])]
    usual = np.median(lit, axis=0)
    tint = np.abs(lab[..., 1:] - usual[1:]).max(axis=-1)
    dark = around & (light < DARKER * usual[0]) & (tint < SAME_COLOUR)
    _, parts = cv2.connectedComponents((dark | (away <= 3)).astype(np.uint8))
    touching = np.unique(parts[thing])
    found = np.isin(parts, touching[touching > 0]) & dark
    wide = cv2.dilate(found.astype(np.uint8), np.ones((2 * SOFT + 1, 2 * SOFT + 1), np.uint8))
    large = cv2.resize(wide, inside.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return large & ~inside if found.any() else np.zeros_like(inside)
