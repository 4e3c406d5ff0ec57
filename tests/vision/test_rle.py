"""Masks as COCO writes them."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.vision.rle import decode_rle, encode_rle


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_mask_comes_back(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < seed % 10 / 9
    said = encode_rle(mask)
    assert (decode_rle(said["size"], said["counts"]) == mask).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_garbage_is_one_clear_error(text):
    with contextlib.suppress(DataError):
        assert decode_rle([3, 4], text).shape == (3, 4)


def test_runs_that_do_not_fill_the_size_are_refused():
    with pytest.raises(DataError, match="do not fill"):
        decode_rle([3, 4], [5])
