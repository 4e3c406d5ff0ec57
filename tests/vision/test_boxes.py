"""Boxes find their way from one unit to another, through everything a plan does to a picture."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.boxes import Box, Frame, make_box, read_unit
from llavakit.vision.layout import Place, Resize
from llavakit.vision.plan import ImageConfig, plan_image

PLANS = {
    "square": ImageConfig(kind="square"),
    "pad": ImageConfig(kind="pad"),
    "squash": ImageConfig(kind="squash"),
    "keep": ImageConfig(kind="keep", size=224, grid=16),
    "anyres": ImageConfig(
        kind="anyres", anyres=AnyresConfig(pinpoints=((672, 672), (336, 1008), (1008, 336)))
    ),
}
UNITS = ["px", "0-1", "0-1000", "input"]
sizes = st.tuples(st.integers(16, 2000), st.integers(16, 2000)).filter(lambda s: max(s) / min(s) < 8)
parts = st.tuples(*[st.floats(0, 1)] * 4)


def frame_of(kind: str, size: tuple[int, int]) -> Frame:
    return Frame(size, plan_image(PLANS[kind], size).views[-1].steps)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(PLANS)), sizes, parts, st.lists(st.sampled_from(UNITS), max_size=5))
def test_a_box_comes_back_from_every_way(kind, size, numbers, ways):
    frame = frame_of(kind, size)
    box = begun = make_box("img_1", "0-1", numbers)
    for unit in ways:
        box = box.to(unit, frame)
    assert box.to("0-1", frame).corners == pytest.approx(begun.corners, abs=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(PLANS)), sizes, st.data())
def test_whole_pixels_stay_the_pixels_they_are(kind, size, data):
    left, top = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    right, bottom = data.draw(st.integers(left + 1, size[0])), data.draw(st.integers(top + 1, size[1]))
    frame = frame_of(kind, size)
    box = Box("img_1", "px", left, top, right, bottom)
    for unit in UNITS:
        assert box.to(unit, frame).pixels(frame) == (left, top, right, bottom)


def test_padding_and_anyres_by_hand():
    # 200 x 100 padded to 200 x 200 and shrunk to 336: 50 rows above become 84.
    frame = frame_of("pad", (200, 100))
    assert Box("i", "px", 0, 0, 200, 100).to("input", frame).corners == pytest.approx((0, 84, 336, 252))
    assert Box("i", "input", 0, 84, 168, 168).to("0-1000", frame).corners == pytest.approx((0, 0, 500, 500))
    # The same picture on 1008 x 336: 672 x 336 in the middle.
    wide = Frame((200, 100), (Resize((672, 336)), Place((1008, 336), (168, 0))))
    assert Box("i", "0-1", 0, 0, 1, 1).to("input", wide).corners == pytest.approx((168, 0, 840, 336))


def test_a_unit_has_the_name_of_the_families_that_write_it():
    assert [read_unit(name) for name in ("px", "llava", "qwen2-vl", "qwen2.5-vl")] == [
        "px",
        "0-1",
        "0-1000",
        "input",
    ]
    with pytest.raises(ConfigError, match="did you mean 'qwen3-vl'"):
        read_unit("qwen3vl")


def test_a_box_outside_is_an_error_and_one_over_the_edge_is_cut():
    frame = Frame((100, 50))
    assert Box("i", "px", -5, 10.2, 300, 20.7).pixels(frame) == (0, 10, 100, 21)
    with pytest.raises(DataError, match="covers nothing of i"):
        Box("i", "0-1", 1.2, 0, 1.5, 1).pixels(frame)
    with pytest.raises(DataError, match="four numbers"):
        make_box("i", "px", [1, 2])
    assert make_box("i", "px", [9, 8, 1, 2]).corners == (1, 2, 9, 8)
