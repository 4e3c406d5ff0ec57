"""Every kind of image gives the pixels of the released preprocessing and of transformers' Pillow processors.

Two slow twins: the released rules written plainly in Pillow, and the processors themselves. Both are compared as
bytes, before any float. Sizes are drawn (sides of 1 px, long strips, odd remainders); photos are real.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from skimage import data
from torch import nn
from transformers.image_utils import load_image as load_peer_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit.model.settings import TowerConfig
from llavakit.model.tower import Tower
from llavakit.vision.anyres import AnyresConfig, best_pinpoint, hd_grids, tile_grids, transpose
from llavakit.vision.frames import VideoConfig, plan_video
from llavakit.vision.image import cut_tiles, load_image
from llavakit.vision.layout import Size
from llavakit.vision.plan import ImageConfig, plan_image

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # SigLIP's
RAW = {"do_rescale": False, "do_normalize": False}
NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # LLaVA-NeXT's list, in tiles

Picture = PIL.Image.Image


class Bare(Tower):
    """A tower of nothing but its normalisation."""

    def __init__(self, image: ImageConfig) -> None:
        super().__init__(TowerConfig(), image)
        self.weight = nn.Parameter(torch.zeros(1))


Processor = Callable[..., dict]


def config_of(kind: str, size: int) -> ImageConfig:
    """The released settings of a kind, for tiles of `size` px."""
    patches = tuple((size * columns, size * rows) for columns, rows in NEXT)
    grids = {
        "next": AnyresConfig(pinpoints=patches),
        "onevision": AnyresConfig(pinpoints=tile_grids((1, 1), (6, 6), size), max_tiles=9),
        "hd": AnyresConfig(pinpoints=hd_grids(size), base="pad"),
        "highres": AnyresConfig(pinpoints=patches, merge="flat"),
    }
    base = {"size": size, "grid": size // 14, **(HALF if kind in ("squash", "onevision") else {})}
    if kind in grids:
        return ImageConfig(kind="highres" if kind == "highres" else "anyres", anyres=grids[kind], **base)
    return ImageConfig(kind=kind, **base)


KINDS = ("square", "pad", "squash", "keep", "next", "onevision", "hd", "highres")
PROCESSORS = (
    "square",
    "pad",
    "squash",
    "keep",
    "next",
    "onevision",
)  # no processor of transformers does the others


def as_transformers_reads(config: ImageConfig) -> ImageConfig:
    """The same checkpoint under the other rule: lists of grids are (height, width) there."""
    if config.anyres is None:
        return config
    return config.model_copy(update={"anyres": transpose(config.anyres, "transformers")})


def ours(config: ImageConfig, image: Picture) -> np.ndarray:
    return cut_tiles(image, plan_image(config, image.size))


# The released rules.


def resized(image: Picture, size: Size) -> Picture:
    return image.resize(size, PIL.Image.Resampling.BICUBIC)


def padded(image: Picture, mean: tuple[float, ...]) -> Picture:
    """A square of the mean colour with the picture in its middle."""
    side = max(image.size)
    if image.width == image.height:
        return image
    square = PIL.Image.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def shortest(image: Picture, side: int) -> Picture:
    """The shortest side to `side`, the aspect kept."""
    width, height = image.size
    if width <= height:
        return resized(image, (side, int(side * height / width)))
    return resized(image, (int(side * width / height), side))


def centred(image: Picture, size: int) -> Picture:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def fitted(image: Picture, canvas: Size) -> Picture:
    """As large as fits, in the middle of a black canvas."""
    across, down = canvas[0] / image.width, canvas[1] / image.height
    if across < down:
        size = canvas[0], min(math.ceil(image.height * across), canvas[1])
    else:
        size = min(math.ceil(image.width * down), canvas[0]), canvas[1]
    black = PIL.Image.new("RGB", canvas, (0, 0, 0))
    black.paste(resized(image, size), ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return black


def split(canvas: Picture, size: int) -> list[Picture]:
    corners = [(x, y) for y in range(0, canvas.height, size) for x in range(0, canvas.width, size)]
    return [canvas.crop((x, y, x + size, y + size)) for x, y in corners]


def keep_side(size: Size) -> int:
    return int(min(448 / (max(size) / min(size)), 224))


def released(kind: str, config: ImageConfig, image: Picture) -> np.ndarray:
    """uint8[N, H, W, 3], one line a rule."""
    size = config.size
    squashed = resized(image, (size, size))
    canvas = (0, 0) if config.anyres is None else best_pinpoint(config.anyres.pinpoints, image.size)
    tiles = {
        "square": lambda: [centred(shortest(image, size), size)],
        "pad": lambda: [resized(padded(image, config.mean), (size, size))],
        "squash": lambda: [squashed],
        "keep": lambda: [shortest(image, keep_side(image.size))],
        "next": lambda: [squashed, *split(fitted(image, canvas), size)],
        "onevision": lambda: [squashed, *split(fitted(image, canvas), size)],
        "hd": lambda: [
            resized(padded(image, config.mean), (size, size)),
            *split(fitted(image, canvas), size),
        ],
        "highres": lambda: [
            squashed,
            *split(resized(padded(image, config.mean), (3 * size, 3 * size)), size),
        ],
    }[kind]()
    return np.stack([np.asarray(tile) for tile in tiles])


# transformers' processors.


def processor_of(kind: str, config: ImageConfig, size: Size) -> Processor:
    """The processor a released checkpoint of the kind comes with; `keep` calls CLIP's as LLaVA v0 did."""
    side = config.size
    shape, short = {"height": side, "width": side}, {"shortest_edge": side}
    colours = {"image_mean": list(config.mean), "image_std": list(config.std)}
    # Its lists are (height, width); ours of the same grids are (width, height).
    pinpoints = (
        [] if config.anyres is None else [[height, width] for width, height in config.anyres.pinpoints]
    )
    return {
        "square": lambda: CLIPImageProcessorPil(size=short, crop_size=shape, **colours),
        "pad": lambda: LlavaImageProcessorPil(size=short, crop_size=shape, do_pad=True, **colours),
        "squash": lambda: SiglipImageProcessorPil(size=shape, resample=3, **colours),
        "keep": lambda: CLIPImageProcessorPil(
            size={"shortest_edge": keep_side(size)}, do_center_crop=False, **colours
        ),
        "next": lambda: LlavaNextImageProcessorPil(
            size=short, crop_size=shape, image_grid_pinpoints=pinpoints, **colours
        ),
        "onevision": lambda: LlavaOnevisionImageProcessorPil(
            size=shape, image_grid_pinpoints=pinpoints, **colours
        ),
    }[kind]()


def pixel_values(processor: Processor, image: Picture, **how: bool) -> np.ndarray:
    """[N, C, H, W] of one picture."""
    values = np.asarray(processor(image, return_tensors="np", **how)["pixel_values"])
    return values.reshape(-1, *values.shape[-3:])


def noise(size: Size) -> Picture:
    """Bytes of every value: the hardest picture for a resize to agree on."""
    pixels = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


SIZES = st.one_of(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 3), st.integers(300, 1500)),
    st.tuples(st.integers(300, 1500), st.integers(1, 3)),
)


SIDES = (28, 42, 56)  # px of a tile: pixels do not care what is inside a patch


def fits(kind: str, size: Size) -> bool:
    """`keep` refuses a picture that is not one patch of 14 px wide (test_plan)."""
    return kind != "keep" or keep_side(size) >= 14


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(size=SIZES, side=st.sampled_from(SIDES))
@example(size=(1, 1), side=28)
@example(size=(1, 1500), side=28)
@example(size=(1500, 1), side=28)
@example(size=(57, 29), side=28)
@example(size=(1001, 999), side=56)
def test_bytes_are_those_of_the_released_rule(kind, size, side):
    assume(fits(kind, size))
    config = config_of(kind, side)
    assert np.array_equal(ours(config, noise(size)), released(kind, config, noise(size)))


@pytest.mark.parametrize("kind", PROCESSORS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(size=SIZES, side=st.sampled_from(SIDES))
@example(size=(1, 1), side=28)
@example(size=(1, 1500), side=28)
@example(size=(1500, 1), side=28)
@example(size=(57, 29), side=28)
@example(size=(1001, 999), side=56)
def test_bytes_are_those_of_transformers_processor(kind, size, side):
    assume(fits(kind, size))
    config = as_transformers_reads(config_of(kind, side))
    theirs = pixel_values(processor_of(kind, config, size), noise(size), **RAW)
    assert np.array_equal(ours(config, noise(size)), theirs.transpose(0, 2, 3, 1))


PHOTOS = {
    "astronaut": data.astronaut,
    "chelsea": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "hubble": data.hubble_deep_field,
    "tissue": data.immunohistochemistry,
    "retina": data.retina,
}


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_photo_on_disk_gives_the_processors_bytes_and_floats(kind, name, tmp_path):
    path = tmp_path / "photo.jpg"
    PIL.Image.fromarray(PHOTOS[name]()).save(path, quality=90)
    image, same = load_image(path), load_peer_image(str(path))
    config = as_transformers_reads(config_of(kind, 378 if kind == "onevision" else 336))
    processor = processor_of(kind, config, image.size)
    tiles = ours(config, image)
    assert np.array_equal(tiles, pixel_values(processor, same, **RAW).transpose(0, 2, 3, 1))
    floats = Bare(config).normalise(torch.from_numpy(tiles)).numpy()
    assert np.abs(floats - pixel_values(processor, same)).max() <= 1e-6


@pytest.mark.parametrize("name", ["coffee", "hubble"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_gives_the_bytes_of_the_released_rule(kind, name):
    image = PIL.Image.fromarray(PHOTOS[name]())
    config = config_of(kind, 336)
    assert np.array_equal(ours(config, image), released(kind, config, image))


@pytest.mark.parametrize(("kind", "twin"), [("square", "square"), ("squash", "squash")])
def test_frames_of_a_video_are_pictures_of_their_kind(kind, twin):
    """transformers' video processors need torchvision; on Pillow a frame is a picture of the same settings."""
    config = config_of(twin, 56)
    frames = [noise((90, 61)), noise((90, 61)).transpose(PIL.Image.Transpose.ROTATE_180)]
    plan = plan_video(VideoConfig(kind=kind), config, (90, 61), len(frames))
    tiles = np.concatenate([cut_tiles(frame, plan) for frame in frames])
    theirs = [pixel_values(processor_of(twin, config, (90, 61)), frame, **RAW) for frame in frames]
    assert np.array_equal(tiles, np.concatenate(theirs).transpose(0, 2, 3, 1))


def test_a_tower_in_half_precision_still_normalises_in_single():
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    tower = Bare(ImageConfig())
    exact = tower.normalise(every)
    assert torch.equal(tower.to(torch.bfloat16).normalise(every), exact.to(torch.bfloat16))
    assert torch.equal(
        every.flatten()[::3], torch.arange(256, dtype=torch.uint8)
    )  # the bytes are not touched


@pytest.mark.parametrize("config", [ImageConfig(), ImageConfig(**HALF)], ids=["clip", "siglip"])
def test_every_byte_is_normalised_within_a_millionth(config):
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    mean, std = (torch.tensor(value, dtype=torch.float64) for value in (config.mean, config.std))
    exact = ((every.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    assert (Bare(config).normalise(every) - exact).abs().max() <= 4e-7


def test_pictures_with_alpha_differ_on_purpose():
    """The release drops the alpha channel; transformers lays the picture on white."""
    image = PIL.Image.new("RGBA", (56, 56), (200, 100, 50, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    config = config_of("squash", 56)
    assert ours(config, load_image(file.getvalue()))[0, 0, 0].tolist() == [200, 100, 50]
    assert (
        pixel_values(processor_of("squash", config, (56, 56)), image, **RAW)[0, :, 0, 0].tolist() == [255] * 3
    )
