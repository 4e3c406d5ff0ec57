"""Messages hold other people's names, and still are one line that any terminal and file takes."""

import pytest

from llavakit.core.errors import DataError, shorten


@pytest.mark.parametrize(
    "name", ["iVBORw0KGgo" * 10_000, "a\nb\u2028c", "half a character: \ud800", "\udc80.png"]
)
def test_a_message_about_any_name_is_one_short_line_of_whole_characters(name):
    error = DataError(f"not found: {name}", path=f"{name}.json"[:50], line=3)
    assert len(error.what.splitlines()) == 1 and len(error.what) < 400
    assert str(error).encode().startswith(str(error).partition(":3: ")[0].encode())
    assert error.what in str(error)


def test_ordinary_long_paths_are_told_whole():
    path = "/data/" + "/".join(["a folder with a long name"] * 20) + "/x.png"
    assert DataError(path).what == path


def test_a_text_is_shortened_in_its_middle():
    assert shorten("a" * 120) == "a" * 120
    assert shorten("a" * 100 + "b" * 100) == "a" * 80 + "..." + "b" * 40 + " (200 characters)"
