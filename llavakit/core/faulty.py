"""Many things done at once, of which one may be broken: it is found, and the others are done."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from llavakit.core.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def set_apart(
    things: Sequence[T], do: Callable[[int, Sequence[T]], Sequence[R]], start: int = 0
) -> Iterator[tuple[int, R | DataError]]:
    """(number, its result or the DataError it makes). All are done at once, and by halves where that fails.

    `do` is given the number of the first thing of a part, and the part.
    """
    try:
        found = do(start, things)
    except DataError as error:
        if len(things) == 1:
            yield start, error
            return
        half = len(things) // 2
        yield from set_apart(things[:half], do, start)
        yield from set_apart(things[half:], do, start + half)
        return
    yield from enumerate(found, start)
