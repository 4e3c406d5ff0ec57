"""What a plan is made of. All integers, all immutable; nothing here knows a pixel or a rule.

Sizes are (width, height) in pixels and (columns, rows) of feature rows, everywhere in llavakit. These are named
tuples, not dataclasses: a million of them are made before a large run starts, and they must be cheap.
"""

from typing import Literal, NamedTuple

from llavakit.core.errors import DataError

MAX_CANVAS = 2**28  # pixels of an intermediate picture: 0.8 GB of RGB

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
Resample = Literal["none", "average", "max", "bilinear"]
Newline = Literal["none", "row", "end"]


class Resize(NamedTuple):
    """Bicubic with antialiasing to exactly this size."""

    size: Size


class Place(NamedTuple):
    """Put the image at `offset` on a canvas of `size`; a negative offset cuts."""

    size: Size
    offset: tuple[int, int]
    fill: tuple[int, int, int] = (0, 0, 0)


Step = Resize | Place


class View(NamedTuple):
    """`steps` turn the image into a canvas; tiles are cut from it at `corners` (left, top)."""

    steps: tuple[Step, ...]
    corners: tuple[tuple[int, int], ...] = ((0, 0),)


class Grid(NamedTuple):
    """A rectangle of feature rows, and the rectangle of image tokens it becomes.

    The `tiles` (columns, rows) that begin with tile `first`, row by row, are joined into one map; its `crop` is
    kept and resampled to `size` (`average` and `max` over windows of `window` x `window`). `row` puts the newline
    token behind every row, `end` one behind the last.
    """

    first: int
    tiles: Size
    crop: Box
    size: Size
    resample: Resample = "none"
    window: int = 1
    newline: Newline = "none"
    closing: bool = False  # the faster token stands behind it (slow-fast videos)

    @property
    def num_tokens(self) -> int:
        width, height = self.size
        newlines = {"none": 0, "row": height, "end": 1}[self.newline]
        return width * height + newlines + self.closing


class Plan(NamedTuple):
    """How one image, or the frames of one video, become tiles and image tokens.

    Tiles are numbered through the views, for each frame in turn. The tower gives `side` feature rows a tile.
    """

    views: tuple[View, ...]
    tile: Size  # pixels
    side: Size  # feature rows
    grids: tuple[Grid, ...]
    frames: int = 1
    pool_first: bool = False  # resample the tower's rows, before the connector, not what comes out of it

    @property
    def num_tokens(self) -> int:
        return sum(grid.num_tokens for grid in self.grids)

    @property
    def tiles(self) -> int:
        """How many pictures the tower sees."""
        return self.frames * sum(len(view.corners) for view in self.views)

    @property
    def grid(self) -> Size:
        """(columns, rows) of the map that is kept: that of the last grid, the base view comes before it."""
        return self.grids[-1].size


def whole(first: int, side: Size, newline: Newline = "none") -> Grid:
    """One tile, every feature row an image token."""
    return Grid(first, (1, 1), (0, 0, *side), side, newline=newline)


def check_canvas(image: Size, canvas: Size) -> None:
    """Refuse an image so long and thin that padding or resizing it would fill the memory."""
    pixels = canvas[0] * canvas[1]
    if pixels > MAX_CANVAS:
        raise DataError(
            f"{image[0]} x {image[1]} pixels is too long and thin: it would become {pixels} pixels; cut the image"
        )
