"""Index arrays against the released merge: a tensor whose entries are the row numbers goes through view, permute,
unpad, interpolate, pool and newline with torch, and comes out as what the arrays gather.
"""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llavakit.vision.anyres import AnyresConfig, hd_grids, tile_grids
from llavakit.vision.frames import SlowFast, VideoConfig, plan_video
from llavakit.vision.plan import ImageConfig, plan_image
from llavakit.vision.rows import FASTER, NEWLINE, plan_tokens

NEWLINE_ROW, FASTER_ROW = -1.0, -2.0  # what stands for the learned rows in the tensors below
FIVE = tuple((28 * columns, 28 * rows) for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))
SIX = tile_grids((1, 1), (6, 6), 28)
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


def table(tiles: int, rows: int) -> torch.Tensor:
    """[tiles, rows, 2]: the number of each row, and something uneven between 0 and 1 that shows wrong weights."""
    numbers = torch.arange(tiles * rows, dtype=torch.float64)
    uneven = torch.frac(numbers * 0.754877666 + 0.1)
    return torch.stack([numbers, uneven], dim=1).view(tiles, rows, 2)


def gathered(plan) -> torch.Tensor:
    """[tokens, 2]: the plan's index arrays applied to the table."""
    rows = table(plan.tiles, plan.side[0] * plan.side[1]).view(-1, 2).numpy()
    tokens = plan_tokens(plan)
    out = np.full((plan.num_tokens, 2), np.nan)
    for gather in tokens.token_rows:
        found = rows[gather.rows]
        if gather.weights is None:
            out[gather.into] = found.max(axis=1)
        else:
            out[gather.into] = (found * gather.weights[..., None]).sum(axis=1)
    for at, separator in tokens.separators:
        assert np.isnan(out[at]).all(), "a token was filled twice"
        out[at] = {NEWLINE: NEWLINE_ROW, FASTER: FASTER_ROW}[separator]
    assert not np.isnan(out).any(), "a token was never filled"
    return torch.from_numpy(out)


def agree(plan, expected: torch.Tensor) -> None:
    mine = gathered(plan)
    assert mine.shape == expected.shape
    if any(grid.resample in ("bilinear", "average") for grid in plan.grids):
        # Values lie between 0 and 1, so this bounds the error of the weights.
        assert float((mine[:, 1] - expected[:, 1]).abs().max()) <= 1e-5
        assert torch.allclose(mine[:, 0], expected[:, 0], rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    else:
        assert torch.equal(mine, expected)


# Images


def released_unpad(map_CHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """unpad_image of the released code."""
    height, width = map_CHW.shape[1:]
    if size[0] / size[1] > width / height:
        kept = int(size[1] * (width / size[0]))
        cut = (height - kept) // 2
        return map_CHW[:, cut : height - cut, :]
    kept = int(size[0] * (height / size[1]))
    cut = (width - kept) // 2
    return map_CHW[:, :, cut : width - cut]


def released_merge(config: AnyresConfig, size, columns: int, rows: int, side: int) -> torch.Tensor:
    """The branch for one image of several tiles in the released prepare_inputs, [tokens, C]."""
    features = table(columns * rows + (config.base != "none"), side * side)
    base, tiles = (features[0], features[1:]) if config.base != "none" else (features[:0, 0], features)
    if config.merge == "flat":
        return features.flatten(0, 1)
    grid = tiles.view(rows, columns, side, side, -1)
    if config.max_pool:
        joined = F.max_pool2d(grid.permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3), 2)
        return torch.cat([base, joined.flatten(1).T])
    if config.merge == "spatial":
        return torch.cat([base, grid.permute(0, 2, 1, 3, 4).flatten(0, 3)])
    joined = released_unpad(grid.permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3), size)
    if config.max_tiles is not None:
        _, height, width = joined.shape
        times = np.sqrt(height * width / (config.max_tiles * side**2))
        if times > 1.1:
            joined = F.interpolate(
                joined[None], [int(height // times), int(width // times)], mode="bilinear"
            )[0]
    newline = torch.full((joined.shape[0], joined.shape[1], 1), NEWLINE_ROW, dtype=joined.dtype)
    return torch.cat([base, torch.cat([joined, newline], dim=2).flatten(1).T])


RULES = {
    "unpad": AnyresConfig(pinpoints=FIVE),
    "unpad, no base": AnyresConfig(pinpoints=FIVE, base="none"),
    "spatial": AnyresConfig(pinpoints=FIVE, merge="spatial"),
    "flat": AnyresConfig(pinpoints=FIVE, merge="flat"),
    "flat, no base": AnyresConfig(pinpoints=FIVE, merge="flat", base="none"),
    "maxpool2x2": AnyresConfig(pinpoints=FIVE, merge="spatial", max_pool=True),
    "maxpool2x2 of unpad": AnyresConfig(pinpoints=SIX, merge="unpad", max_pool=True),
    "max_9": AnyresConfig(pinpoints=SIX, max_tiles=9),
    "max_4": AnyresConfig(pinpoints=SIX, max_tiles=4),
    "max_1": AnyresConfig(pinpoints=SIX, max_tiles=1),
    "HD": AnyresConfig(pinpoints=hd_grids(28), base="pad"),
}


@pytest.mark.parametrize("rule", RULES)
@settings(derandomize=True, max_examples=40, deadline=None)
@given(size=SIZES, side=st.sampled_from([2, 4, 7]))
@example(size=(28, 28), side=4)
@example(size=(400, 399), side=7)
@example(size=(400, 3), side=7)
@example(size=(400, 1), side=2)  # so thin that no row of the map saw it: newlines of nothing
@example(size=(1, 400), side=2)
def test_an_image_is_merged_as_released(rule, size, side):
    config = ImageConfig(kind="anyres", size=28, grid=side, anyres=RULES[rule])
    plan = plan_image(config, size)
    width, height = max(x for x, _ in plan.views[-1].corners), max(y for _, y in plan.views[-1].corners)
    agree(plan, released_merge(RULES[rule], size, width // 28 + 1, height // 28 + 1, side))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(size=SIZES, tokens=st.integers(20, 2000))
def test_the_blogs_rule_is_an_interpolation_of_every_tile(size, tokens):
    rule = AnyresConfig(pinpoints=SIX, merge="flat", max_tokens=tokens)
    plan = plan_image(ImageConfig(kind="anyres", size=28, grid=7, anyres=rule), size)
    small = plan.grid[0]
    tiles = table(plan.tiles, 49).view(-1, 7, 7, 2).permute(0, 3, 1, 2)
    if small != 7:
        tiles = F.interpolate(tiles, [small, small], mode="bilinear")
    agree(plan, tiles.flatten(2).transpose(1, 2).flatten(0, 1))
    assert plan.num_tokens <= max(tokens, plan.tiles)


def test_one_of_several_images_ends_with_one_newline():
    config = ImageConfig(kind="anyres", size=28, grid=4, anyres=RULES["unpad"])
    plan = plan_image(config, (100, 50), alone=False)
    expected = torch.cat([table(1, 16)[0], torch.full((1, 2), NEWLINE_ROW, dtype=torch.float64)])
    agree(plan, expected)


# Videos


def pool(frame: torch.Tensor, how: str, stride: int) -> torch.Tensor:
    """get_2dPool of the released code on one frame, [C, side, side]."""
    if stride == 1:
        return frame
    if how == "bilinear":
        size = [-(-length // stride) for length in frame.shape[1:]]
        return F.interpolate(frame[None], size, mode="bilinear")[0]
    return (F.avg_pool2d if how == "average" else F.max_pool2d)(frame[None], stride)[0]


def released_video(config: VideoConfig, side: int, frames: int) -> torch.Tensor:
    features = table(frames, side * side).view(frames, side, side, 2).permute(0, 3, 1, 2)
    newline = torch.full((1, 2), NEWLINE_ROW, dtype=torch.float64)
    out = []
    for number, frame in enumerate(features):
        fast = config.slow_fast is not None and number % config.slow_fast.every != 0
        small = pool(frame, config.pool, config.stride * (2 if fast else 1))
        if config.newline == "grid":
            column = torch.full((2, small.shape[1], 1), NEWLINE_ROW, dtype=small.dtype)
            small = torch.cat([small, column], dim=2)
        out.append(small.flatten(1).T)
        if config.newline == "frame":
            out.append(newline)
        if config.slow_fast is not None:
            out.append(torch.full((1, 2), FASTER_ROW, dtype=torch.float64))
    if config.newline == "one_token":
        out.append(newline)
    return torch.cat(out)


@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
@pytest.mark.parametrize("how", ["average", "max", "bilinear"])
@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    side=st.sampled_from([4, 7, 24, 27]),
    stride=st.integers(1, 4),
    frames=st.integers(1, 5),
    every=st.none() | st.integers(1, 3),
)
def test_a_video_is_pooled_and_closed_as_released(how, newline, side, stride, frames, every):
    slow_fast = None if every is None or newline != "grid" or side < 8 else SlowFast(every=every)
    config = VideoConfig(pool=how, stride=stride, newline=newline, slow_fast=slow_fast)
    image = ImageConfig(size=14 * side, grid=side)
    agree(plan_video(config, image, (60, 40), frames), released_video(config, side, frames))
