"""Filling a hole: only the hole changes, a regular texture goes on, and the same seed gives the same pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.studio.engines import Inpainter
from llavakit.text.calls import ToolError
from llavakit.tools import patchmatch
from llavakit.tools.flow import Flow
from llavakit.tools.patchmatch import PatchMatch
from tests.studio.pictures import scenery


def checks(height=120, width=150, side=6):
    """A texture that goes on the same everywhere: diagonal checks."""
    y, x = np.mgrid[:height, :width]
    dark = (((x + y) // side) + ((x - y) // side)) % 2
    return np.where(dark[..., None] > 0, np.uint8([40, 60, 90]), np.uint8([200, 180, 160]))


def square(shape, top=40, left=50, side=36):
    hole = np.zeros(shape[:2], bool)
    hole[top : top + side, left : left + side] = True
    return hole


@pytest.mark.parametrize("engine", [Flow(), PatchMatch()])
def test_only_the_hole_changes(engine: Inpainter):
    rgb = scenery(120, 100)
    hole = square(rgb.shape, 5, 85, 25)
    damaged = np.where(hole[..., None], np.uint8([255, 0, 255]), rgb)
    filled = engine.fill(damaged, hole)
    assert np.array_equal(filled[~hole], rgb[~hole])
    assert np.abs(filled[hole].astype(int) - rgb[hole]).mean() < 20
    with pytest.raises(ToolError, match="follows no prompt"):
        engine.fill(rgb, hole, "a dog")


def test_a_texture_goes_on_where_a_flow_blurs_it():
    rgb = checks()
    hole = square(rgb.shape)
    errors = {
        type(engine).__name__: np.abs(engine.fill(rgb * ~hole[..., None], hole).astype(int) - rgb)[
            hole
        ].mean()
        for engine in (Flow(), PatchMatch())
    }
    assert errors["PatchMatch"] < 12 < 30 < errors["Flow"]


def test_a_large_hole_is_filled_smaller_and_made_sharp(monkeypatch):
    monkeypatch.setattr(patchmatch, "LARGEST", 400)
    rgb = checks(side=12)
    hole = square(rgb.shape)
    filled = PatchMatch().fill(rgb * ~hole[..., None], hole)
    assert np.array_equal(filled[~hole], rgb[~hole])
    edges = np.abs(np.diff(filled.astype(int), axis=1)).max(axis=-1)
    assert (edges[45:70, 55:80] > 100).mean() > 0.4 * (edges[:, :40] > 100).mean()


def test_the_same_seed_gives_the_same_pixels():
    rgb, hole = scenery(120, 100), square((100, 120), 30, 40, 25)
    first = PatchMatch().fill(rgb, hole, seed=3)
    assert np.array_equal(PatchMatch().fill(rgb, hole, seed=3), first)
    assert not np.array_equal(PatchMatch().fill(rgb, hole, seed=4), first)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 60), st.integers(3, 60), st.data())
def test_any_hole_of_any_picture_is_filled_or_refused(width, height, data):
    rgb = scenery(width, height)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    hole = np.zeros((height, width), bool)
    hole[top : top + data.draw(st.integers(1, height)), left : left + data.draw(st.integers(1, width))] = True
    for engine in (Flow(), PatchMatch()):
        if hole.all():
            continue
        filled = engine.fill(rgb, hole)
        assert filled.shape == rgb.shape and np.array_equal(filled[~hole], rgb[~hole])
