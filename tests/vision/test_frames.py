"""Which frames are looked at and how many tokens they give: the released rules, and the published tables."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llavakit.core.errors import ConfigError, DataError
from llavakit.vision.frames import (
    SlowFast,
    VideoConfig,
    VideoInfo,
    choose_frames,
    plan_video,
    pooled,
    rope_factor,
    spread,
    time_instruction,
)
from llavakit.vision.plan import ImageConfig, Resize

SIGLIP = ImageConfig(kind="squash", size=384, grid=27, mean=(0.5,) * 3, std=(0.5,) * 3)
CLIP = ImageConfig(kind="square", size=336, grid=24)
TOKENS = {  # frames: grid, frame, one_token, each with average and bilinear
    8: (1456, 1680, 1360, 1576, 1353, 1569),
    16: (2912, 3360, 2720, 3152, 2705, 3137),
    32: (5824, 6720, 5440, 6304, 5409, 6273),
    64: (11648, 13440, 10880, 12608, 10817, 12545),
    110: (20020, 23100, 18700, 21670, 18591, 21561),
}
COLUMNS = [(newline, pool) for newline in ("grid", "frame", "one_token") for pool in ("average", "bilinear")]


def constant(count: int, fps: float) -> VideoInfo:
    return VideoInfo((64, 48), tuple(number / fps for number in range(count)), count / fps)


def chosen(count: int, native: float, **settings) -> tuple[int, ...]:
    return choose_frames(VideoConfig(**settings), constant(count, native))


def released(count: int, native: float, fps: float, bound: int, force: bool) -> list[int]:
    """The rule of the released loader, with numpy."""
    step = max(1, round(native / fps))
    indices = list(range(0, count, step))
    if len(indices) > bound or force:
        indices = np.linspace(0, count - 1, bound, dtype=int).tolist()
    return indices


def tokens(image: ImageConfig, frames: int, **settings) -> int:
    return plan_video(VideoConfig(kind=image.kind, **settings), image, (640, 480), frames).num_tokens


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    count=st.integers(1, 4000),
    native=st.sampled_from([1, 5, 7.5, 10, 12.5, 15, 23.976, 24, 25, 29.97, 30, 50, 60]),
    fps=st.sampled_from([0.5, 1, 2, 4, 10, 60, 200]),
    bound=st.integers(1, 128),
    force=st.booleans(),
)
@example(count=2383, native=12.5, fps=1, bound=128, force=False)  # 12.5 comes back as 12.500000000000002
@example(count=1, native=30, fps=1, bound=8, force=True)
def test_frames_are_those_the_release_takes(count, native, fps, bound, force):
    indices = chosen(count, native, fps=fps, max_frames=bound, uniform=force)
    assert list(indices) == released(count, native, fps, bound, force)


def test_one_frame_a_second():
    assert chosen(95, 30, uniform=False) == (0, 30, 60, 90)
    assert chosen(95, 30, uniform=False, fps=2) == tuple(range(0, 95, 15))


def test_the_step_is_rounded_half_to_even():
    assert chosen(10, 25, fps=10, uniform=False) == (0, 2, 4, 6, 8)  # 2.5
    assert chosen(10, 35, fps=10, uniform=False) == (0, 4, 8)  # 3.5


def test_a_step_of_zero_is_one():
    assert chosen(5, 1, fps=4, uniform=False) == (0, 1, 2, 3, 4)


def test_as_many_as_the_bound_keep_the_step_and_one_more_spreads_them():
    assert chosen(120, 30, uniform=False, max_frames=4) == (0, 30, 60, 90)
    assert chosen(121, 30, uniform=False, max_frames=4) == (0, 40, 80, 120)


def test_uniform_repeats_the_frames_of_a_short_clip():
    assert chosen(3, 30, max_frames=8) == (0, 0, 0, 0, 1, 1, 1, 2)
    assert chosen(1, 30, max_frames=4) == (0, 0, 0, 0)


def test_positions_are_cut_not_rounded():
    assert spread(10, 8) == (0, 1, 2, 3, 5, 6, 7, 9)  # 1.29 2.57 3.86 5.14 6.43 7.71
    assert spread(10, 1) == (0,)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(count=st.integers(1, 100_000), wanted=st.integers(1, 200))
def test_spread_is_numpys_linspace(count, wanted):
    assert list(spread(count, wanted)) == np.linspace(0, count - 1, wanted, dtype=int).tolist()


def test_a_video_without_frames_is_refused():
    with pytest.raises(DataError, match="no frames"):
        choose_frames(VideoConfig(), VideoInfo((64, 48), (), 0.0))


def test_the_rate_of_a_varying_video_is_its_average():
    info = VideoInfo((64, 48), (0.0, 0.1, 0.2, 3.0), 4.0)
    assert info.fps == 1.0
    assert VideoInfo((64, 48), (0.0,), 0.0).fps == 1.0


def test_the_time_instruction_is_what_released_weights_saw():
    info = constant(150, 30)
    indices = choose_frames(VideoConfig(max_frames=4), info)
    assert time_instruction(info.seconds, tuple(info.times[index] for index in indices)) == (
        "The video lasts for 5.00 seconds, and 4 frames are uniformly sampled from it. "
        "These frames are located at 0.00s,1.63s,3.30s,4.97s."
        "Please answer the following questions related to this video."
    )


@pytest.mark.parametrize("pool", ["average", "max", "bilinear"])
@pytest.mark.parametrize(("side", "stride"), [(27, 2), (27, 4), (24, 2), (24, 4)])
def test_pooled_sides(pool, side, stride):
    down, up = {(27, 2): (13, 14), (27, 4): (6, 7), (24, 2): (12, 12), (24, 4): (6, 6)}[side, stride]
    assert pooled(side, pool, stride) == (up if pool == "bilinear" else down)
    assert pooled(side, pool, 1) == side


def test_pooling_everything_away_is_refused():
    with pytest.raises(ConfigError, match="lower video"):
        plan_video(VideoConfig(stride=14, slow_fast=SlowFast()), SIGLIP, (64, 48), 2)
    assert pooled(27, "bilinear", 28) == 1


@pytest.mark.parametrize("frames", TOKENS)
@pytest.mark.parametrize("column", range(6), ids=lambda column: "-".join(COLUMNS[column]))
def test_token_table(frames, column):
    newline, pool = COLUMNS[column]
    assert tokens(SIGLIP, frames, newline=newline, pool=pool) == TOKENS[frames][column]


@pytest.mark.parametrize("frames", [1, 16, 32])
def test_no_newlines_leave_the_pooled_rows(frames):
    assert tokens(SIGLIP, frames, newline="no_token", pool="bilinear") == frames * 196
    assert tokens(CLIP, frames, newline="no_token", pool="average") == frames * 144


@pytest.mark.parametrize(
    ("frames", "every", "average", "bilinear"),
    [(64, 3, 5832, 7036), (64, 5, 4572, 5650), (64, 10, 3732, 4726), (32, 10, 1936, 2440)],
)
def test_slow_fast_counts(frames, every, average, bilinear):
    for pool, expected in (("average", average), ("bilinear", bilinear)):
        slow_fast = SlowFast(every=every)
        assert tokens(SIGLIP, frames, newline="grid", pool=pool, slow_fast=slow_fast) == expected


def test_slow_frames_are_the_first_of_every_few_and_each_frame_is_closed():
    config = VideoConfig(kind="squash", newline="grid", slow_fast=SlowFast(every=3))
    plan = plan_video(config, SIGLIP, (640, 480), 7)
    assert [grid.size for grid in plan.grids] == [(13, 13), (6, 6), (6, 6)] * 2 + [(13, 13)]
    assert all(grid.closing for grid in plan.grids)
    assert [grid.first for grid in plan.grids] == list(range(7))
    assert plan.tiles == plan.frames == 7


def test_one_newline_stands_behind_the_last_frame():
    plan = plan_video(VideoConfig(kind="squash", newline="one_token"), SIGLIP, (640, 480), 3)
    assert [grid.newline for grid in plan.grids] == ["none", "none", "end"]


def test_siglip_squashes_a_frame_and_clip_cuts_its_centre():
    (view,) = plan_video(VideoConfig(kind="squash"), SIGLIP, (640, 480), 1).views
    assert view.steps == (Resize((384, 384)),)
    (view,) = plan_video(VideoConfig(kind="square"), CLIP, (640, 480), 1).views
    assert view.steps[0] == Resize((448, 336))
    assert view.steps[1].offset == (-56, 0)


def test_without_pooling_a_frame_keeps_its_rows():
    plan = plan_video(VideoConfig(stride=1), CLIP, (640, 480), 7)
    assert {grid.resample for grid in plan.grids} == {"none"}
    assert plan.num_tokens == 7 * 576


def test_pooling_and_squeezed_positions_turn_7_frames_into_16_and_56():
    full, small = tokens(CLIP, 1, stride=1), tokens(CLIP, 1)
    assert (full, small) == (576, 144)
    assert 4096 // full == 7
    assert 16 * small == 2304 and rope_factor(16 * small, 4096) == 1
    assert 8192 // small == 56 and 56 * small == 8064 and rope_factor(56 * small, 4096) == 2


@pytest.mark.parametrize(("frames", "factor"), [(1, 1), (16, 1), (21, 1), (22, 2), (32, 2), (56, 3), (64, 3)])
def test_the_released_demo_leaves_1000_positions_for_text(frames, factor):
    assert rope_factor(tokens(CLIP, frames) + 1000, 4096) == factor


def test_positions_are_never_stretched():
    assert [rope_factor(count, 4096) for count in (0, 1, 4096, 4097, 8192, 8193)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"max_frames": 0}, {"stride": 0}, {"pool": "median"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises((ValidationError, ConfigError)):
        VideoConfig(**wrong)
