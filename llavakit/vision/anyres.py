"""AnyRes: an image is laid out on the grid of tiles that keeps most of its pixels (LLaVA-1.5-HD, NeXT, OneVision).

Two rules exist for the same weights: `llava`, the released training code's, and `transformers`'. They round
differently, and read the same list of grids in a different order (`transpose`); a checkpoint says which it means.
"""

import math
import re
from functools import lru_cache
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.vision.layout import Box, Grid, Place, Plan, Resize, Size, Step, View, check_canvas, whole

Rule = Literal["llava", "transformers"]
Side = Annotated[int, Field(ge=1)]  # pixels

# "(1x1),...,(6x6)": every layout between the first and the last pair, in tiles.
SPEC = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")
SLACK = 1.1  # released code: a map up to this factor (per side) over its budget is left alone


class AnyresConfig(Config):
    """The grids an image may be laid out on, and how the features of its tiles become one sequence.

    `merge`: `flat` puts tile after tile, `spatial` joins them into one map, `unpad` also drops what only saw
    padding and puts the newline token behind every row (`spatial_unpad` in released configs).
    """

    pinpoints: tuple[tuple[Side, Side], ...]  # (width, height) in pixels; order decides ties
    merge: Literal["flat", "spatial", "unpad"] = "unpad"
    base: Literal["squash", "pad", "none"] = "squash"  # the whole image as one tile in front
    max_tiles: int | None = Field(
        None, ge=1
    )  # anyres_max_N: shrink the map to about N tiles' worth of tokens
    max_tokens: int | None = Field(None, ge=1)  # the blog's rule: tiles share this many tokens, base included
    max_pool: bool = False  # 2 x 2 over the whole joined map (`maxpool2x2`): nothing is dropped, no newlines
    rule: Rule = "llava"  # how the kept map is rounded

    @field_validator("pinpoints", mode="before")
    @classmethod
    def _some(cls, value: object) -> object:
        if not value:
            raise ValueError("needs at least one (width, height)")
        return value

    @model_validator(mode="after")
    def _one_way_to_shrink(self) -> "AnyresConfig":
        if (self.max_tiles is not None) + (self.max_tokens is not None) + self.max_pool > 1:
            raise ValueError("max_tiles, max_tokens and max_pool exclude each other")
        if self.max_tiles is not None and self.merge != "unpad":
            raise ValueError("max_tiles needs merge=unpad: elsewhere the released code ignores it")
        if self.max_tokens is not None and self.merge != "flat":
            raise ValueError("max_tokens needs merge=flat: it shrinks each tile by itself")
        if self.max_pool and self.merge == "flat":
            raise ValueError("max_pool needs merge=spatial or unpad: it pools the joined map")
        return self


def tile_grids(first: Size, last: Size, size: int) -> tuple[Size, ...]:
    """Every layout from `first` to `last` (columns, rows) in pixels; the width is the outer loop."""
    columns, rows = range(first[0], last[0] + 1), range(first[1], last[1] + 1)
    return tuple((size * i, size * j) for i, j in product(columns, rows))


def read_pinpoints(value: object, size: int) -> tuple[Size, ...]:
    """`image_grid_pinpoints` of a released config: a list of pairs, or a string such as `(1x1),...,(6x6)`."""
    if isinstance(value, str):
        match = SPEC.fullmatch(value.replace(" ", ""))
        if match is not None:
            a, b, c, d = map(int, match.groups())
            return tile_grids((a, b), (c, d), size)
        pairs = re.findall(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*[)\]]", value)
        value = [(int(width), int(height)) for width, height in pairs]
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(
            f"image_grid_pinpoints={value!r}: expected [[width, height], ...] or '(1x1),...,(6x6)'"
        )
    return tuple((int(width), int(height)) for width, height in value)


def transpose(config: AnyresConfig, rule: Rule) -> AnyresConfig:
    """The same numbers as the other rule reads them: `transformers` takes every pair as (height, width).

    Where an image fits two layouts equally well the first wins, so small pictures are laid out differently.
    """
    pinpoints = tuple((height, width) for width, height in config.pinpoints)
    return config.model_copy(update={"pinpoints": pinpoints, "rule": rule})


def hd_grids(size: int) -> tuple[Size, ...]:
    """LLaVA-1.5-HD: every layout of at most six tiles: 1x1 to 1x6, 2x2, 2x3, and transposed."""
    shapes = [(1, n) for n in range(1, 7)] + [(2, 2), (2, 3)]
    layouts = dict.fromkeys([*shapes, *((b, a) for a, b in shapes)])
    return tuple((size * a, size * b) for a, b in layouts)


def best_pinpoint(pinpoints: tuple[Size, ...], size: Size) -> Size:
    """The canvas on which most pixels of an image survive; of equals the smallest; of those the first."""
    image_width, image_height = size
    pixels = image_width * image_height
    most, best = -1, pinpoints[0]
    for area, canvas in _largest_first(pinpoints):
        if area < most:  # no more than its area survives on a canvas, and the rest are smaller still
            break
        a, b = canvas[0] / image_width, canvas[1] / image_height
        scale = a if a < b else b
        kept = int(image_width * scale) * int(image_height * scale)
        if kept > pixels:
            kept = pixels
        if kept >= most:  # of equals the later one: it is smaller, so it wastes less, or it is listed earlier
            most, best = kept, canvas
    return best


@lru_cache(maxsize=64)
def _largest_first(pinpoints: tuple[Size, ...]) -> tuple[tuple[int, Size], ...]:
    """(area, canvas) from the largest to the smallest; of equal ones the first listed comes last."""
    return tuple(sorted(((w * h, (w, h)) for w, h in reversed(pinpoints)), key=lambda pair: -pair[0]))


def plan_anyres(
    config: AnyresConfig, size: Size, *, tile: int, side: int, fill: tuple[int, int, int]
) -> Plan:
    """The plan of an image under `config`; `tile` pixels and `side` feature rows per side of a tile."""
    canvas = best_pinpoint(config.pinpoints, size)
    columns, rows = canvas[0] // tile, canvas[1] // tile
    views: tuple[View, ...] = (View(_fit(size, canvas), _corners(canvas, tile)),)
    grids: tuple[Grid, ...] = ()
    if config.base != "none":
        views = (View(_base_steps(config, size, tile, fill)), *views)
        grids = (whole(0, (side, side)),)
    grids += _merge(config, size, len(grids), (columns, rows), side)
    if config.max_tokens is not None:
        grids = _share(grids, config.max_tokens, columns * rows + len(views) - 1, side)
    return Plan(views, (tile, tile), (side, side), grids)


@lru_cache(maxsize=256)
def _corners(canvas: Size, tile: int) -> tuple[Size, ...]:
    """(left, top) of every tile, row by row. Cached: a large run plans a million images on a few canvases."""
    return tuple((x, y) for y in range(0, canvas[1], tile) for x in range(0, canvas[0], tile))


def _fit(size: Size, canvas: Size) -> tuple[Step, ...]:
    """Largest size of the image's shape that fits, in the middle of a black canvas."""
    a, b = canvas[0] / size[0], canvas[1] / size[1]
    if a < b:
        fitted = canvas[0], min(math.ceil(size[1] * a), canvas[1])
    else:
        fitted = min(math.ceil(size[0] * b), canvas[0]), canvas[1]
    if fitted == canvas:
        return (Resize(canvas),)
    return Resize(fitted), Place(canvas, ((canvas[0] - fitted[0]) // 2, (canvas[1] - fitted[1]) // 2))


def _base_steps(config: AnyresConfig, size: Size, tile: int, fill: tuple[int, int, int]) -> tuple[Step, ...]:
    if config.base == "pad" and size[0] != size[1]:
        longest = max(size)
        check_canvas(size, (longest, longest))
        offset = (longest - size[0]) // 2, (longest - size[1]) // 2
        return Place((longest, longest), offset, fill), Resize((tile, tile))
    return (Resize((tile, tile)),)


def _merge(config: AnyresConfig, size: Size, first: int, tiles: Size, side: int) -> tuple[Grid, ...]:
    """The grids behind the base view."""
    columns, rows = tiles
    width, height = columns * side, rows * side
    if config.merge == "flat":
        return tuple(whole(first + number, (side, side)) for number in range(columns * rows))
    full = 0, 0, width, height
    if config.max_pool:  # before anything else in the release: padding is pooled too
        return (Grid(first, tiles, full, (width // 2, height // 2), "max", window=2),)
    if config.merge == "spatial":
        return (Grid(first, tiles, full, (width, height)),)
    crop = unpad(size, (width, height), config.rule)
    kept = crop[2] - crop[0], crop[3] - crop[1]
    final = kept if config.max_tiles is None else shrink(kept, config.max_tiles, side)
    return (Grid(first, tiles, crop, final, "none" if final == kept else "bilinear", newline="row"),)


def unpad(size: Size, map_size: Size, rule: Rule) -> Box:
    """What of a map saw the image. An odd remainder leaves one row or column of padding, as released.

    `llava` cuts to whole rows, float error and all; `transformers` rounds to 7 digits first (704 x 396 differs).
    """
    width, height = map_size
    if size[0] / size[1] > width / height:
        exact = size[1] * (width / size[0])
        kept = int(exact) if rule == "llava" else int(round(exact, 7))
        cut = (height - kept) // 2
        return 0, cut, width, height - cut
    exact = size[0] * (height / size[1])
    kept = int(exact) if rule == "llava" else int(round(exact, 7))
    cut = (width - kept) // 2
    return cut, 0, width - cut, height


def shrink(kept: Size, max_tiles: int, side: int) -> Size:
    """anyres_max_N: bilinear to N tiles' worth of tokens, but only beyond a factor of 1.1 per side."""
    width, height = kept
    factor = math.sqrt(height * width / (max_tiles * side**2))
    return (int(width // factor), int(height // factor)) if factor > SLACK else kept


def _share(grids: tuple[Grid, ...], max_tokens: int, num_tiles: int, side: int) -> tuple[Grid, ...]:
    """The blog's rule (LLaVA-NeXT ablations): beyond `max_tokens` in all, every tile gets an equal part of them."""
    if num_tiles * side**2 <= max_tokens:
        return grids
    small = max(1, math.isqrt(max_tokens // num_tiles))
    return tuple(grid._replace(size=(small, small), resample="bilinear") for grid in grids)
