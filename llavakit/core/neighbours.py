"""An order in which things with something in common follow each other."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def neighbours(things: Sequence[T], common: Callable[[T], Hashable]) -> list[T]:
    """Things with the same `common` one after the other, in the order of the first of each; else as they came."""
    first: dict[Hashable, int] = {}
    places = [first.setdefault(common(thing), len(first)) for thing in things]
    return [thing for _, thing in sorted(zip(places, things, strict=True), key=lambda pair: pair[0])]
