"""Running sequences by how their prompts begin: with whom a newcomer has most in common.

They are kept sorted by their tokens, so whoever has the longest common beginning with a prompt stands beside the
place where it would stand. Tokens themselves are compared, those of pictures by their content.
"""

from bisect import bisect, insort

from llavakit.engine.step import Sequence

Entry = tuple[bytes, tuple[int, ...], int, int, Sequence]  # salt, names, number, choice: no two are equal


class Beginnings:
    """The prompts of those who have a slot."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def add(self, sequence: Sequence) -> None:
        """A sequence has a slot now."""
        insort(self._entries, _entry(sequence))

    def remove(self, sequence: Sequence) -> None:
        """It leaves it."""
        del self._entries[bisect(self._entries, _entry(sequence)) - 1]

    def clear(self) -> None:
        """All left."""
        self._entries.clear()

    def nearest(self, sequence: Sequence) -> list[tuple[Sequence, int]]:
        """Up to two who begin like a sequence that is not among them: each with how many tokens are the same."""
        salt, names = sequence.request.salt, sequence.names
        at = bisect(self._entries, (salt, tuple(names)))
        return [
            (other, _alike(names, prompt))
            for owner, prompt, _, _, other in self._entries[max(0, at - 1) : at + 1]
            if owner == salt
        ]


def _entry(sequence: Sequence) -> Entry:
    request = sequence.request  # its names, not those of the sequence: they stay as they are
    return request.salt, request.names, sequence.number, sequence.choice, sequence


def _alike(names: list[int], prompt: tuple[int, ...]) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(names), len(prompt))
    while low < high:  # whole pieces are compared at once
        middle = (low + high + 1) // 2
        if tuple(names[low:middle]) == prompt[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
