"""Masks as arrays: uint8[h, w], 0 outside, 255 inside, between them where an edge is soft."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from llavakit.studio.tiles import Box, Pixels, Raster, Tile, blank, full_tile, grown
from llavakit.tools.opencv import opencv

INSIDE = 128  # what counts as inside where a yes or no is needed
_COUNTED: WeakKeyDictionary[Tile, int] = (
    WeakKeyDictionary()
)  # pixels inside, of tiles that were counted before


def mask_raster(size: tuple[int, int], at: tuple[int, int], mask: Pixels) -> Raster:
    """A mask as large as the canvas from a part of it."""
    return blank(size, 1).write(at, mask[..., None])


def read_mask(raster: Raster, box: Box | None = None) -> Pixels:
    """uint8[h, w]."""
    return raster.read(box)[..., 0]


def area(raster: Raster) -> int:
    """How many pixels are inside."""
    return sum(_count(tile) for tile in raster.tiles if tile is not None)


def _count(tile: Tile) -> int:
    known = _COUNTED.get(tile)
    if known is None:
        known = _COUNTED[tile] = int(np.count_nonzero(tile.pixels >= INSIDE))
    return known


def grow(raster: Raster, by: int) -> Raster:
    """Wider by so many pixels, or narrower. Soft edges stay where the change does not reach them."""
    box = raster.content_box()
    if box is None or by == 0:
        return raster
    box = grown(box, max(by, 0) + 2, raster.size)
    mask = read_mask(raster, box)
    return raster.write(box[:2], widened(mask, by)[..., None])


def widened(mask: Pixels, by: int) -> Pixels:
    """The same for an array that has room for it."""
    cv2 = opencv()
    if by >= 0:
        away = cv2.distanceTransform(np.uint8(mask < INSIDE), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.maximum(mask, np.uint8(255) * (away <= by))
    framed = np.pad(np.uint8(mask >= INSIDE), 1, mode="edge")  # the canvas's edge is no edge of an object
    away = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.minimum(mask, np.uint8(255) * (away > -by))


def feather(raster: Raster, radius: float) -> Raster:
    """Edges that go from inside to outside over about `radius` pixels on either side."""
    box = raster.content_box()
    if box is None:
        return raster
    box = grown(box, int(2 * radius) + 2, raster.size)
    soft = opencv().GaussianBlur(
        read_mask(raster, box), (0, 0), radius / 2, borderType=opencv().BORDER_REPLICATE
    )
    return raster.write(box[:2], soft[..., None])


def invert(raster: Raster) -> Raster:
    """Inside out. Whole squares of one value are shared."""
    tiles: list[Tile | None] = []
    for index, tile in enumerate(raster.tiles):
        left, top, right, bottom = raster.tile_box(index)
        if tile is None:
            tiles.append(full_tile((bottom - top, right - left)))
        else:
            pixels = 255 - tile.pixels
            tiles.append(Tile(pixels) if pixels.any() else None)
    return Raster(raster.size, 1, tuple(tiles))


def combine(one: Raster, other: Raster, how: str) -> Raster:
    """`add`: either; `subtract`: the first without the second; `intersect`: both."""
    tiles: list[Tile | None] = []
    for a, b in zip(one.tiles, other.tiles, strict=True):
        if how == "add":
            made = b if a is None else a if b is None else Tile(np.maximum(a.pixels, b.pixels))
        elif how == "subtract":
            made = a if a is None or b is None else Tile(np.minimum(a.pixels, 255 - b.pixels))
        else:
            made = None if a is None or b is None else Tile(np.minimum(a.pixels, b.pixels))
        tiles.append(made if made is None or made in (a, b) or made.pixels.any() else None)
    return Raster(one.size, 1, tuple(tiles))


def brush(
    raster: Raster, path: Sequence[tuple[float, float]], width: float, *, erase: bool = False
) -> Raster:
    """The mask with a stroke of a round brush added, or taken away."""
    xs, ys = [x for x, _ in path], [y for _, y in path]
    reach = int(width / 2) + 2
    box = grown((int(min(xs)), int(min(ys)), int(max(xs)) + 1, int(max(ys)) + 1), reach, raster.size)
    if box[0] >= box[2] or box[1] >= box[3]:
        return raster
    mask, drawn = read_mask(raster, box), draw_path(path, width, box)
    return raster.write(
        box[:2], (np.minimum(mask, 255 - drawn) if erase else np.maximum(mask, drawn))[..., None]
    )


def draw_path(path: Sequence[tuple[float, float]], width: float, box: Box) -> Pixels:
    """uint8[h, w] of a box: 255 under a round brush that follows `path`."""
    cv2 = opencv()
    out = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    shift, part = 4, 16  # positions in sixteenths of a pixel; OpenCV counts from the middle of the first one
    points = np.rint((np.asarray(path, np.float64) - np.asarray(box[:2]) - 0.5) * part).astype(np.int32)
    for point in points if len(points) == 1 else points[:0]:
        cv2.circle(out, tuple(point.tolist()), round(width / 2 * part), 255, -1, cv2.LINE_AA, shift)
    if len(points) > 1:
        thick = max(1, round(width))
        cv2.polylines(out, [points[:, None]], False, 255, thick, cv2.LINE_AA, shift)
    return out
