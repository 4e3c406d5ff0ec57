"""Pixels that never change, in squares: a changed picture shares every square that did not change.

So a history of pictures costs what differs, and going back is exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

SIDE = 256
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
Pixels = np.ndarray


class Tile:
    """One square, uint8[h, w, bands]; in memory, or read when it is first looked at. Compared by identity."""

    __slots__ = ("__weakref__", "_content", "_pixels", "_read", "nbytes")

    def __init__(
        self, pixels: Pixels | None = None, read: Callable[[], Pixels] | None = None, nbytes: int = 0
    ) -> None:
        self._pixels, self._read = pixels, read
        self.nbytes = nbytes if pixels is None else pixels.nbytes
        self._content: tuple[Box | None] | None = None  # once it was looked for
        if pixels is not None:
            pixels.flags.writeable = False

    @property
    def pixels(self) -> Pixels:
        """The pixels, not to be written to."""
        if self._pixels is None:
            assert self._read is not None
            self._pixels = self._read()
            self._pixels.flags.writeable = False
        return self._pixels

    @property
    def content(self) -> Box | None:
        """The smallest box with everything in it that is not zero in the last band."""
        if self._content is None:
            self._content = (nonzero_box(self.pixels[..., -1]),)
        return self._content[0]


@dataclass(frozen=True, eq=False)
class Raster:
    """A picture of `bands` bands (4: RGBA, alpha not multiplied; 1: a mask). A missing tile is zero everywhere."""

    size: tuple[int, int]  # width, height
    bands: int
    tiles: tuple[Tile | None, ...]  # row by row

    @property
    def columns(self) -> int:
        return -(-self.size[0] // SIDE)

    @property
    def box(self) -> Box:
        return (0, 0, *self.size)

    def tile_box(self, index: int) -> Box:
        """Where a tile lies; those at the edges are smaller."""
        y, x = divmod(index, self.columns)
        return (
            x * SIDE,
            y * SIDE,
            min((x + 1) * SIDE, self.size[0]),
            min((y + 1) * SIDE, self.size[1]),
        )

    def read(self, box: Box | None = None) -> Pixels:
        """uint8[h, w, bands], a copy of a part; zero outside of the picture."""
        left, top, right, bottom = box or self.box
        out = np.zeros((max(bottom - top, 0), max(right - left, 0), self.bands), np.uint8)
        for index in self._touched((left, top, right, bottom)):
            tile = self.tiles[index]
            if tile is not None:
                x0, y0, x1, y1 = intersect(self.tile_box(index), (left, top, right, bottom))
                tx, ty = self.tile_box(index)[:2]
                out[y0 - top : y1 - top, x0 - left : x1 - left] = tile.pixels[
                    y0 - ty : y1 - ty, x0 - tx : x1 - tx
                ]
        return out

    def write(self, at: tuple[int, int], pixels: Pixels) -> "Raster":
        """The picture with `pixels` (uint8[h, w, bands]) at (x, y); what reaches outside is cut off."""
        left, top = at
        box = (left, top, left + pixels.shape[1], top + pixels.shape[0])
        tiles = list(self.tiles)
        for index in self._touched(box):
            x0, y0, x1, y1 = whole = self.tile_box(index)
            old = tiles[index]
            new = np.zeros((y1 - y0, x1 - x0, self.bands), np.uint8) if old is None else old.pixels.copy()
            a, b, c, d = intersect(whole, box)
            new[b - y0 : d - y0, a - x0 : c - x0] = pixels[b - top : d - top, a - left : c - left]
            if old is None and not new.any():
                continue
            if old is None or not np.array_equal(old.pixels, new):
                tiles[index] = _tile_of(new)
        return replace(self, tiles=tuple(tiles))

    def blend(self, at: tuple[int, int], pixels: Pixels, where: Pixels) -> "Raster":
        """`write`, but only where `where` (bool[h, w]) says so: other pixels stay bit for bit what they were."""
        box = (at[0], at[1], at[0] + pixels.shape[1], at[1] + pixels.shape[0])
        return self.write(at, np.where(where[..., None], pixels, self.read(box)))

    def content_box(self) -> Box | None:
        """The smallest box that holds everything that is not zero (of an RGBA picture: not transparent)."""
        found: Box | None = None
        for index, tile in enumerate(self.tiles):
            if tile is not None:
                inner = tile.content
                if inner is not None:
                    x, y = self.tile_box(index)[:2]
                    found = union(found, (inner[0] + x, inner[1] + y, inner[2] + x, inner[3] + y))
        return found

    def _touched(self, box: Box) -> Iterator[int]:
        left, top, right, bottom = intersect(box, self.box)
        if left < right and top < bottom:
            for y in range(top // SIDE, (bottom - 1) // SIDE + 1):
                for x in range(left // SIDE, (right - 1) // SIDE + 1):
                    yield y * self.columns + x


def _tile_of(pixels: Pixels) -> Tile | None:
    """A tile; none for zero everywhere, and one and the same for all inside of masks."""
    if not pixels.any():
        return None
    return full_tile(pixels.shape[:2]) if pixels.shape[2] == 1 and (pixels == 255).all() else Tile(pixels)


@lru_cache(maxsize=64)
def full_tile(shape: tuple[int, int]) -> Tile:
    """All inside of a mask: (height, width)."""
    return Tile(np.full((*shape, 1), 255, np.uint8))


def blank(size: tuple[int, int], bands: int) -> Raster:
    """Zero everywhere: nothing selected, or transparent."""
    count = -(-size[0] // SIDE) * -(-size[1] // SIDE)
    return Raster(size, bands, (None,) * count)


def raster_of(pixels: Pixels) -> Raster:
    """uint8[h, w, bands] or [h, w] in tiles."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, bands = pixels.shape
    return blank((width, height), bands).write((0, 0), pixels)


def changed_box(one: Raster, other: Raster) -> Box | None:
    """The tiles in which two pictures of one size differ, as one box."""
    found: Box | None = None
    for index, (a, b) in enumerate(zip(one.tiles, other.tiles, strict=True)):
        if a is not b:
            found = union(found, one.tile_box(index))
    return found


def intersect(one: Box, other: Box) -> Box:
    """What two boxes share; where that is nothing, left >= right or top >= bottom."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def union(one: Box | None, other: Box | None) -> Box | None:
    """The box around two boxes."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def grown(box: Box, by: int, size: tuple[int, int]) -> Box:
    """A box with a border, inside a picture of `size`."""
    return intersect((box[0] - by, box[1] - by, box[2] + by, box[3] + by), (0, 0, *size))


def nonzero_box(mask: Pixels) -> Box | None:
    """The smallest box with everything in it that is not zero."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
