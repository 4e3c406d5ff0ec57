"""Smaller versions of a picture, each half of the one before, in tiles that are made once.

An edit makes new tiles where it changed something; the smaller versions of all others are still there.
"""

from functools import lru_cache

import numpy as np

from llavakit.studio.tiles import SIDE, Pixels, Raster, Tile
from llavakit.tools.opencv import opencv

KEPT_TILES = 512  # 128 MB at most


def small(raster: Raster, z: int) -> Raster:
    """A picture halved `z` times."""
    for _ in range(z):
        raster = _smaller(raster)
    return raster


def small_size(size: tuple[int, int], z: int) -> tuple[int, int]:
    """(width, height) of a picture halved `z` times; a half pixel at an edge counts as one."""
    return -(-size[0] >> z), -(-size[1] >> z)


@lru_cache(maxsize=64)
def _smaller(raster: Raster) -> Raster:
    width, height = small_size(raster.size, 1)
    columns, rows = -(-width // SIDE), -(-height // SIDE)
    old_columns, old_rows = raster.columns, -(-raster.size[1] // SIDE)
    tiles: list[Tile | None] = []
    for y in range(rows):
        for x in range(columns):
            quarters = tuple(
                raster.tiles[v * old_columns + u] if u < old_columns and v < old_rows else None
                for v in (2 * y, 2 * y + 1)
                for u in (2 * x, 2 * x + 1)
            )
            used = (
                min(2 * SIDE, raster.size[0] - 2 * x * SIDE),
                min(2 * SIDE, raster.size[1] - 2 * y * SIDE),
            )
            tiles.append(None if quarters == (None,) * 4 else _halved(quarters, used, raster.bands))
    return Raster((width, height), raster.bands, tuple(tiles))


@lru_cache(maxsize=KEPT_TILES)
def _halved(quarters: tuple[Tile | None, ...], used: tuple[int, int], bands: int) -> Tile:
    """Four neighbours, `used` (width, height) of whose double square is picture, in the room of one."""
    width, height = used
    whole = np.zeros((height + height % 2, width + width % 2, bands), np.uint8)
    for index, quarter in enumerate(quarters):
        if quarter is not None:
            h, w = quarter.pixels.shape[:2]
            top, left = index // 2 * SIDE, index % 2 * SIDE
            whole[top : top + h, left : left + w] = quarter.pixels
    whole[height:] = whole[height - 1]
    whole[:, width:] = whole[:, width - 1 : width]
    return Tile(halve(whole))


def halve(pixels: Pixels) -> Pixels:
    """uint8[2h, 2w, bands] to uint8[h, w, bands]: means of two by two; colours count by their alpha."""
    height, width, bands = pixels.shape
    if bands < 4 or (pixels[..., 3] == 255).all():
        # OpenCV's mean of four bytes is rounded half up, and takes a hundredth of the time of NumPy's.
        cv2 = opencv()
        small: Pixels = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return small.reshape(height // 2, width // 2, bands)
    blocks = pixels.reshape(height // 2, 2, width // 2, 2, bands)
    alpha = blocks[..., 3:].astype(np.float32)
    total = alpha.sum(axis=(1, 3))
    colour = (blocks[..., :3] * alpha).sum(axis=(1, 3)) / np.maximum(total, 1)
    return np.rint(np.concatenate((colour, total / 4), axis=-1)).astype(np.uint8)
