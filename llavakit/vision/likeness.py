"""How alike two pictures look: hashes that scaling, another format and a little noise leave nearly as they are.

A gradient hash (which of two neighbours is brighter, 16 x 16) with the colours of a 4 x 4 thumbnail beside it: grey
alone calls a red and a green shape on a plain ground the same.
"""

from dataclasses import dataclass

import numpy as np
import PIL.Image

SIDE, BITS = 16, 256
COLOURS = 4
NEAR_BITS = 12  # of 256; copies at another size or quality differ by fewer
NEAR_COLOUR = 10.0  # of 255, mean over the thumbnail


@dataclass(frozen=True)
class Likeness:
    """What of a picture is compared."""

    bits: np.ndarray  # uint64[4]
    colours: np.ndarray  # int16[48]

    def near(self, other: "Likeness", bits: int = NEAR_BITS) -> bool:
        """Whether a person would take the two for one picture."""
        far = int(np.bitwise_count(self.bits ^ other.bits).sum())
        return far <= bits and float(np.abs(self.colours - other.colours).mean()) <= NEAR_COLOUR


def likeness(image: PIL.Image.Image) -> Likeness:
    """Of an RGB picture."""
    box = PIL.Image.Resampling.BOX
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), box), dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1] + 1)  # flat ground is not noise
    colours = np.asarray(image.resize((COLOURS, COLOURS), box), dtype=np.int16).reshape(-1)
    return Likeness(bits.view(np.uint64), colours)


class SimilarPictures:
    """Pictures by their number, 128 bytes each; finds an earlier one that looks alike, by looking at all."""

    def __init__(self, bits: int = NEAR_BITS) -> None:
        self._near = bits
        self._bits_N4 = np.empty((64, BITS // 64), dtype=np.uint64)
        self._colours = np.empty((64, 3 * COLOURS * COLOURS), dtype=np.int16)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, seen: Likeness) -> int | None:
        """The number of an earlier picture that is near."""
        known_N4 = self._bits_N4[: self._count]
        far_N = np.bitwise_count(known_N4 ^ seen.bits).sum(axis=1)
        for number in np.flatnonzero(far_N <= self._near):
            if float(np.abs(self._colours[number] - seen.colours).mean()) <= NEAR_COLOUR:
                return int(number)
        return None

    def add(self, seen: Likeness) -> None:
        """Keep a picture under the next number."""
        if self._count == len(self._bits_N4):
            self._bits_N4 = np.concatenate([self._bits_N4, np.empty_like(self._bits_N4)])
            self._colours = np.concatenate([self._colours, np.empty_like(self._colours)])
        self._bits_N4[self._count], self._colours[self._count] = seen.bits, seen.colours
        self._count += 1
