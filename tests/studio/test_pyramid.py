"""Smaller versions of a picture."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.studio.pyramid import halve, small
from llavakit.studio.tiles import raster_of


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4]), st.integers(0, 2**32 - 1))
def test_a_half_is_the_rounded_mean_of_two_by_two(height, width, bands, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * height, 2 * width, bands), dtype=np.uint8)
    pixels[..., 3:] = 255  # where all is opaque
    sums = pixels.reshape(height, 2, width, 2, bands).sum(axis=(1, 3))
    assert np.array_equal(halve(pixels), (sums + 2) // 4)


def test_colours_count_by_their_alpha():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0], pixels[1, 1] = (200, 100, 50, 255), (9, 9, 9, 0)
    assert halve(pixels)[0, 0].tolist() == [200, 100, 50, 64]


def test_an_odd_edge_is_half_a_pixel_that_counts_as_one():
    ramp = np.arange(513, dtype=np.uint16)[None, :, None] // 3
    half = small(raster_of(np.uint8(ramp)), 1)
    assert half.size == (257, 1) and half.read()[0, -1, 0] == 512 // 3
