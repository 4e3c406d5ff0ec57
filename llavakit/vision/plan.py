"""Plans: integers, made from an image's size alone, that say how it is cut and which image tokens it gives.

Nothing here touches a pixel, so lengths, packing and placeholder counts are exact before any file is decoded.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError
from llavakit.vision.anyres import AnyresConfig, plan_anyres
from llavakit.vision.layout import Newline, Place, Plan, Resize, Size, Step, View, check_canvas, whole

# `keep`: bounds of the shortest and the longest side (LLaVA v0, LLaVA-Med 1.0).
KEEP_SHORT, KEEP_LONG = 224, 448
PICTURE = (640, 480)  # the picture of COCO, and our idea of a mean one
# Of a colour, where black is 0 and white is 1.
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class ImageConfig(Config):
    """How images become tiles. Saved in the checkpoint: it must be the same in training and in use.

    `square` resizes the shortest side to `size` and cuts the centre (stage 1 of every CLIP LLaVA); `pad` first pads
    to a square with the mean colour (stage 2 of LLaVA-1.5); `squash` ignores the aspect (SigLIP's own rule);
    `keep` keeps the aspect without cutting; `anyres` and `highres` cut several tiles, as `anyres` says.
    `depth=12` is for 12-bit grey in files whose headers say 16.
    """

    kind: Literal["square", "pad", "squash", "keep", "anyres", "highres"] = "pad"
    size: int = Field(336, ge=1)
    grid: int = Field(24, ge=1)  # the tower gives grid x grid rows per tile
    mean: tuple[Mean, Mean, Mean] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[Deviation, Deviation, Deviation] = (0.26862954, 0.26130258, 0.27577711)
    anyres: AnyresConfig | None = None
    several: Literal["pad", "same"] = "pad"  # images of one sample: each padded to one tile, or as if alone
    depth: int | None = Field(default=None, ge=8, le=32)  # bits of grey values where a file does not say it

    @model_validator(mode="after")
    def _grids_are_whole_tiles(self) -> "ImageConfig":
        if (self.kind in ("anyres", "highres")) != (self.anyres is not None):
            raise ValueError(f"kind={self.kind} and anyres must be set together")
        for width, height in () if self.anyres is None else self.anyres.pinpoints:
            if width % self.size or height % self.size or min(width, height) < self.size:
                raise ValueError(
                    f"anyres.pinpoints: {width} x {height} is not made of whole {self.size} px tiles"
                )
        return self

    @property
    def fill(self) -> tuple[int, int, int]:
        """The padding colour: the mean, cut (not rounded) to whole steps, as the original does."""
        red, green, blue = self.mean
        return int(red * 255), int(green * 255), int(blue * 255)


def plan_image(config: ImageConfig, size: Size, *, alone: bool = True) -> Plan:
    """The plan of an image of `size` = (width, height) under `config`; not `alone` in a sample of several images.

    An image so long and thin that padding or resizing it would fill the memory is a DataError.
    """
    if min(size) < 1:
        raise ConfigError(f"an image must be at least 1 x 1 pixels, not {size[0]} x {size[1]}")
    several = not alone and config.several == "pad"
    if config.kind == "anyres" and not several:
        assert config.anyres is not None
        return plan_anyres(config.anyres, size, tile=config.size, side=config.grid, fill=config.fill)
    if config.kind == "highres" and not several:
        return _highres(config, size)
    if config.kind == "keep":
        return _keep(config, size)
    side = config.grid, config.grid
    steps = {"square": _square, "pad": _pad, "squash": _squash}[
        "pad" if config.anyres is not None else config.kind
    ](config, size)
    # One tile where others have several closes with one newline, if the merge has newlines at all.
    newline: Newline = "end" if config.anyres is not None and config.anyres.merge == "unpad" else "none"
    return Plan((View(steps),), (config.size, config.size), side, (whole(0, side, newline),))


def _square(config: ImageConfig, size: Size) -> tuple[Step, ...]:
    """CLIP's own rule: shortest side to `size`, the longer one cut (not rounded) to whole pixels, centre crop."""
    resized = _shortest_to(config.size, size)
    left, top = (resized[0] - config.size) // 2, (resized[1] - config.size) // 2
    crop = Place((config.size, config.size), (-left, -top))
    return (Resize(resized),) if resized == crop.size else (Resize(resized), crop)


def _shortest_to(short: int, size: Size) -> Size:
    length = short * max(size) // min(size)
    check_canvas(size, (short, length))
    return (length, short) if size[0] >= size[1] else (short, length)


def _pad(config: ImageConfig, size: Size) -> tuple[Step, ...]:
    """Padding comes before resizing, at full resolution, so the border is blurred exactly as in the release."""
    side = max(size)
    resize = Resize((config.size, config.size))
    if size[0] == size[1]:
        return (resize,)
    check_canvas(size, (side, side))
    return (Place((side, side), ((side - size[0]) // 2, (side - size[1]) // 2), config.fill), resize)


def _squash(config: ImageConfig, size: Size) -> tuple[Step, ...]:
    return (Resize((config.size, config.size)),)


def _keep(config: ImageConfig, size: Size) -> Plan:
    """LLaVA v0's rule: at most 448 on the long side and 224 on the short one, nothing cut; a tile of any shape."""
    ratio = max(size) / min(size)
    patch = config.size // config.grid
    resized = _shortest_to(int(min(KEEP_LONG / ratio, KEEP_SHORT)), size)
    side = resized[0] // patch, resized[1] // patch
    if min(side) < 1:
        raise DataError(
            f"{size[0]} x {size[1]} pixels is too long and thin: not one {patch} px patch wide; cut the image"
        )
    return Plan((View((Resize(resized),)),), resized, side, (whole(0, side),))


def _highres(config: ImageConfig, size: Size) -> Plan:
    """NeXT's `highres`: padded to a square of the largest configured side, then tiles; a squashed view first."""
    assert config.anyres is not None
    longest = max(max(pinpoint) for pinpoint in config.anyres.pinpoints)
    square = config.anyres.model_copy(update={"pinpoints": ((longest, longest),)})
    plan = plan_anyres(square, size, tile=config.size, side=config.grid, fill=config.fill)
    *base, tiles = plan.views
    padded = _pad(config, size)[:-1]  # its padding, then the larger resize
    return plan._replace(views=(*base, tiles._replace(steps=(*padded, Resize((longest, longest))))))
