"""Data URLs are decoded piece by piece, and give or refuse what one call would."""

import base64
import binascii

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.vision.data_url import decode_data_url

LETTERS = st.text("ABab09+/=é", max_size=40) | st.binary(max_size=30).map(
    lambda data: base64.b64encode(data).decode()
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(text=LETTERS, piece=st.sampled_from([4, 8, 2**18]))
def test_pieces_are_as_strict_as_the_whole(text, piece):
    try:
        expected = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        expected = None
    expected = None if len(text) % 4 else expected  # "AAAA=" is taken there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llavakit.vision.data_url.PIECE", piece)
        if expected is None:
            with pytest.raises(DataError, match="not base64"):
                decode_data_url(f"data:image/png;base64,{text}", 100)
        else:
            assert decode_data_url(f"data:image/png;base64,{text}", 100) == ("image/png", expected)
