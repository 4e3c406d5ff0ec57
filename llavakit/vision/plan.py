"""Plans: integers, made from an image's size alone, that say how it is cut and which image tokens it gives.

Nothing here touches a pixel, so lengths, packing and placeholder counts are exact before any file is decoded.
Sizes are (width, height) in pixels everywhere in llavakit.
"""

from dataclasses import dataclass
from typing import Literal

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError

Size = tuple[int, int]

MAX_CANVAS = 2**28  # pixels of an intermediate picture: 0.8 GB of RGB


class ImageConfig(Config):
    """How images become tiles. Saved in the checkpoint: it must be the same in training and in use.

    `square` resizes the shortest side to `size` and cuts the centre (stage 1 of every LLaVA); `pad` first pads
    to a square with the mean colour (stage 2 of LLaVA-1.5).
    """

    kind: Literal["square", "pad"] = "pad"
    size: int = 336
    grid: int = 24  # the tower gives grid x grid rows per tile
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def fill(self) -> tuple[int, int, int]:
        """The padding colour: the mean, cut (not rounded) to whole steps, as the original does."""
        red, green, blue = (int(value * 255) for value in self.mean)
        return red, green, blue


@dataclass(frozen=True)
class Resize:
    """Bicubic with antialiasing to exactly this size."""

    size: Size


@dataclass(frozen=True)
class Place:
    """Put the image at `offset` on a canvas of `size`; a negative offset cuts."""

    size: Size
    offset: tuple[int, int]
    fill: tuple[int, int, int] = (0, 0, 0)


Step = Resize | Place


@dataclass(frozen=True)
class Plan:
    """How one image becomes tiles and image tokens.

    `steps` turn the image into a canvas, `corners` are the top left corners of the tiles cut from it, and
    `rows` lists, token by token, which row of the table [tile 0 rows | tile 1 rows | ...] the model puts there.
    """

    steps: tuple[Step, ...]
    corners: tuple[tuple[int, int], ...]
    tile: int  # side of a tile in pixels
    tile_rows: int  # rows the tower gives per tile
    grid: tuple[int, int]  # columns and rows of image tokens
    rows: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.rows)

    @property
    def num_tiles(self) -> int:
        return len(self.corners)


def plan_image(config: ImageConfig, size: Size) -> Plan:
    """The plan of an image of `size` = (width, height) under `config`.

    An image so long and thin that padding or resizing it would fill the memory is a DataError.
    """
    if min(size) < 1:
        raise ConfigError(f"an image must be at least 1 x 1 pixels, not {size[0]} x {size[1]}")
    steps = {"square": _square, "pad": _pad}[config.kind](config, size)
    largest = max(step.size[0] * step.size[1] for step in steps)
    if largest > MAX_CANVAS:
        raise DataError(
            f"{size[0]} x {size[1]} pixels is too long and thin: it would become {largest} pixels; cut the image"
        )
    return Plan(
        steps=steps,
        corners=((0, 0),),
        tile=config.size,
        tile_rows=config.grid * config.grid,
        grid=(config.grid, config.grid),
        rows=tuple(range(config.grid * config.grid)),
    )


def _square(config: ImageConfig, size: Size) -> tuple[Step, ...]:
    """CLIP's own rule: shortest side to `size`, the longer one cut (not rounded) to whole pixels, centre crop."""
    short, long = min(size), max(size)
    length = config.size * long // short
    resized = (length, config.size) if size[0] >= size[1] else (config.size, length)
    left, top = (resized[0] - config.size) // 2, (resized[1] - config.size) // 2
    crop = Place((config.size, config.size), (-left, -top))
    return (Resize(resized),) if resized == crop.size else (Resize(resized), crop)


def _pad(config: ImageConfig, size: Size) -> tuple[Step, ...]:
    """Padding comes before resizing, at full resolution, so the border is blurred exactly as in the release."""
    side = max(size)
    resize = Resize((config.size, config.size))
    if size[0] == size[1]:
        return (resize,)
    return (Place((side, side), ((side - size[0]) // 2, (side - size[1]) // 2), config.fill), resize)
