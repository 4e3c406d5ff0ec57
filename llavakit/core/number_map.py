"""A map of numbers that takes little room: what is looked up by a digest, a hundred thousand times and more."""

from array import array

FULL = 0.6  # of its places; then it is made twice as large


class NumberMap:
    """Keys of 64 bits to numbers from 0. 16 bytes a place, where a dict takes about 120 an entry.

    Keys are digests: their bits are taken as they are to choose a place.
    """

    def __init__(self, places: int = 1024) -> None:
        self._mask = (1 << (places - 1).bit_length()) - 1
        self._clear()

    def __len__(self) -> int:
        return self._count

    def get(self, key: int) -> int | None:
        """The number of a key, None where it has none."""
        found = self._values[self._place(key)]
        return None if found < 0 else found

    def put(self, key: int, value: int) -> None:
        """Give a key its number, a new one in place of an old one."""
        at = self._place(key)
        if self._values[at] < 0:
            self._count += 1
        self._keys[at], self._values[at] = key, value
        if self._count > FULL * len(self._keys):
            self._grow()

    def _place(self, key: int) -> int:
        """Where the key is, or where it would be."""
        at = key & self._mask
        while self._values[at] >= 0 and self._keys[at] != key:
            at = (at + 1) & self._mask
        return at

    def _clear(self) -> None:
        self._keys = array("Q", bytes(8 * (self._mask + 1)))
        self._values = array("q", b"\xff" * 8 * (self._mask + 1))  # -1 everywhere: empty
        self._count = 0

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._mask = 2 * self._mask + 1
        self._clear()
        for key, value in zip(keys, values, strict=True):
            if value >= 0:
                at = self._place(key)
                self._keys[at], self._values[at] = key, value
                self._count += 1
