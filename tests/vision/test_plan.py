"""Plans against independent, slow twins: the released code in plain Pillow, and transformers' CLIP processor."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.core.errors import ConfigError, DataError
from llavakit.vision.image import cut_tiles
from llavakit.vision.layout import MAX_CANVAS, Place, Resize
from llavakit.vision.plan import ImageConfig, plan_image
from llavakit.vision.rows import plan_tokens

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))
RAW = {"do_rescale": False, "do_normalize": False}


def photo(size: tuple[int, int], seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng([seed, *size]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def expand_to_square(image: PIL.Image.Image, mean: tuple[float, float, float]) -> PIL.Image.Image:
    """expand2square of the released code."""
    width, height = image.size
    colour = tuple(int(255 * value) for value in mean)
    if width == height:
        return image
    side = max(width, height)
    result = PIL.Image.new("RGB", (side, side), colour)
    result.paste(image, ((side - width) // 2, (side - height) // 2))
    return result


def shortest_side_and_crop(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """CLIP's own preprocessing: shortest side to `size`, the rest cut around the centre."""
    width, height = image.size
    if width < height:
        image = image.resize((size, int(size * height / width)), PIL.Image.Resampling.BICUBIC)
    else:
        image = image.resize((int(size * width / height), size), PIL.Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def tile(config: ImageConfig, image: PIL.Image.Image) -> np.ndarray:
    (only,) = cut_tiles(image, plan_image(config, image.size))
    return only


@settings(derandomize=True, max_examples=60, deadline=None)
@given(size=SIZES, side=st.sampled_from([28, 56, 37]))
@example(size=(200, 1), side=28)
@example(size=(1, 200), side=28)
@example(size=(1, 1), side=28)
@example(size=(28, 28), side=28)
def test_square_is_the_released_crop(size, side):
    image = photo(size)
    expected = np.asarray(shortest_side_and_crop(image, side))
    assert np.array_equal(tile(ImageConfig(kind="square", size=side, grid=2), image), expected)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(size=SIZES, side=st.sampled_from([28, 56, 37]))
@example(size=(200, 1), side=28)
@example(size=(1, 200), side=28)
@example(size=(1, 1), side=28)
@example(size=(28, 28), side=28)
def test_pad_is_the_released_padding(size, side):
    config = ImageConfig(kind="pad", size=side, grid=2)
    image = photo(size)
    expected = np.asarray(shortest_side_and_crop(expand_to_square(image, config.mean), side))
    assert np.array_equal(tile(config, image), expected)


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (333, 500), (224, 224), (100, 70), (1001, 30)])
def test_square_is_transformers_clip_processor(size):
    image = photo(size)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, **RAW
    )
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.array_equal(tile(ImageConfig(kind="square", size=224, grid=16), image), theirs)


@pytest.mark.parametrize("size", [(640, 480), (300, 500), (336, 336), (90, 70)])
def test_pad_is_transformers_clip_processor_on_the_padded_picture(size):
    image, config = photo(size), ImageConfig()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, **RAW
    )
    theirs = processor(expand_to_square(image, config.mean), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(tile(config, image), theirs.transpose(1, 2, 0))


def test_mean_and_deviation_are_those_of_clip():
    processor = CLIPImageProcessorPil()
    assert ImageConfig().mean == tuple(processor.image_mean)
    assert ImageConfig().std == tuple(processor.image_std)


def test_the_fill_colour_is_the_mean_cut_to_whole_steps():
    assert ImageConfig().fill == (122, 116, 104)
    border = cut_tiles(PIL.Image.new("RGB", (20, 2)), plan_image(ImageConfig(size=20, grid=2), (20, 2)))[
        0, 0, 0
    ]
    assert tuple(border) == (122, 116, 104)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(size=SIZES, kind=st.sampled_from(["square", "pad"]), grid=st.integers(1, 24))
def test_one_tile_gives_grid_times_grid_tokens_in_reading_order(size, kind, grid):
    plan = plan_image(ImageConfig(kind=kind, size=14 * grid, grid=grid), size)
    assert plan.num_tokens == grid * grid
    assert plan_tokens(plan).token_rows[0].rows.ravel().tolist() == list(range(grid * grid))
    assert plan.grid == (grid, grid)
    assert plan.tiles == 1
    assert plan.tile == (14 * grid, 14 * grid)


def test_the_released_sizes_give_the_released_token_counts():
    assert plan_image(ImageConfig(kind="square", size=224, grid=16), (640, 480)).num_tokens == 256
    assert plan_image(ImageConfig(kind="pad", size=336, grid=24), (640, 480)).num_tokens == 576


def test_a_plan_depends_on_the_size_alone_and_says_its_steps():
    config = ImageConfig(kind="pad", size=336)
    assert plan_image(config, (640, 480)) == plan_image(config, (640, 480))
    assert plan_image(config, (640, 480)).views[0].steps == (
        Place((640, 640), (0, 80), (122, 116, 104)),
        Resize((336, 336)),
    )
    square = ImageConfig(kind="square", size=224, grid=16)
    assert plan_image(square, (640, 480)).views[0].steps == (Resize((298, 224)), Place((224, 224), (-37, 0)))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ConfigError, match="at least 1 x 1"):
        plan_image(ImageConfig(), size)


@pytest.mark.parametrize(
    ("kind", "size"), [("pad", (65_500, 10)), ("pad", (10, 65_500)), ("square", (80_000, 3))]
)
def test_an_image_that_would_fill_the_memory_is_refused_by_its_size(kind, size):
    """Its header is small enough, but padded to a square (or scaled by its short side) it would not be."""
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels is too long and thin"):
        plan_image(ImageConfig(kind=kind), size)


def test_a_large_panorama_is_not_refused():
    for kind in ("pad", "square"):
        steps = plan_image(ImageConfig(kind=kind), (16_000, 2_000)).views[0].steps
        assert max(step.size[0] * step.size[1] for step in steps) <= MAX_CANVAS
