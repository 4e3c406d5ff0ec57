"""Words that follow each other, as numbers: how alike two texts are, and whether one is in the other.

MinHash (Broder 1997): two texts agree in a place of their signatures as often as their shingles overlap (Jaccard).
"""

import re
from zlib import crc32

import numpy as np

from llavakit.core.number_map import NumberMap

WORD = re.compile(r"\w+")
SHINGLE = 3  # words
PLACES, BANDS = 60, 10  # two texts that overlap by 0.8 meet in a band 95 times in 100, by 0.9 in 999 of 1000
_DICE = np.random.default_rng(20231)
_ODD = _DICE.integers(1 << 63, size=PLACES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_PLUS = _DICE.integers(1 << 63, size=PLACES, dtype=np.uint64)
_STEP = np.uint64(0x9E3779B97F4A7C15)
CHANCE = 1 / 256  # that two bytes are equal although what they were taken from is not


def words_of(text: str) -> list[str]:
    """The words of a text, without case and signs."""
    return WORD.findall(text.casefold())


def shingles_of(text: str, count: int = SHINGLE) -> np.ndarray:
    """uint64[N]: a number for every `count` words that follow each other; empty for a shorter text."""
    words = np.array(
        [crc32(word.encode("utf-8", "surrogatepass")) for word in words_of(text)], dtype=np.uint64
    )
    total = max(0, len(words) - count + 1)
    found = np.zeros(total, dtype=np.uint64)
    for at in range(count):
        found = (found ^ words[at : at + total]) * _STEP
        found ^= found >> np.uint64(29)
    return found


def overlap(one: str, other: str) -> float:
    """Jaccard's share of shingles that both texts have, 0 to 1; exact."""
    a, b = (set(shingles_of(text).tolist()) for text in (one, other))
    return len(a & b) / len(a | b) if a | b else float(words_of(one) == words_of(other))


class SimilarTexts:
    """Texts by their number, 400 bytes each, whatever their length; finds an earlier one that overlaps."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands = NumberMap()
        self._signatures = bytearray()

    def __len__(self) -> int:
        return len(self._signatures) // PLACES

    def meet(self, text: str) -> int | None:
        """The number of an earlier text whose shingles overlap by the threshold or more, as MinHash estimates it.

        Where there is none, the text is kept under the next number.
        """
        signature, bands = _sign(text)
        for band in bands:
            number = self._bands.get(band)
            if number is not None and self._agreement(number, signature) >= self._threshold:
                return number
        number = len(self)
        self._signatures += signature
        for band in bands:
            if self._bands.get(band) is None:
                self._bands.put(band, number)
        return None

    def _agreement(self, number: int, signature: bytes) -> float:
        kept = np.frombuffer(bytes(self._signatures[number * PLACES : (number + 1) * PLACES]), dtype=np.uint8)
        equal = float((kept == np.frombuffer(signature, dtype=np.uint8)).mean())
        return (equal - CHANCE) / (1 - CHANCE)


def _sign(text: str) -> tuple[bytes, list[int]]:
    """(a byte of every place, a number for every band); no band for a text without a shingle."""
    shingles = shingles_of(text)
    if not len(shingles):
        return bytes(PLACES), []
    least_P = (shingles[None, :] * _ODD[:, None] + _PLUS[:, None]).min(axis=1)
    mixed = np.zeros(BANDS, dtype=np.uint64)
    for column in least_P.reshape(BANDS, -1).T:
        mixed = (mixed ^ column) * _STEP
        mixed ^= mixed >> np.uint64(31)
    mixed ^= np.arange(BANDS, dtype=np.uint64) * _STEP  # a band of another place is another band
    return (least_P >> np.uint64(56)).astype(np.uint8).tobytes(), mixed.tolist()
