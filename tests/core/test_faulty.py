"""One broken thing among many."""

from hypothesis import given
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.core.faulty import set_apart


@given(st.lists(st.booleans(), max_size=20))
def test_what_is_broken_is_found_and_the_others_are_done(broken):
    def do(start, part):
        assert part == broken[start : start + len(part)]
        if any(part):
            raise DataError("broken")
        return [start + at for at in range(len(part))]

    found = dict(set_apart(broken, do))
    assert list(found) == list(range(len(broken)))
    for number, is_broken in enumerate(broken):
        assert isinstance(found[number], DataError) if is_broken else found[number] == number
