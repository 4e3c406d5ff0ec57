"""Masks as runs, the way COCO writes them: lengths of zeros and ones in turn, column by column, zeros first.

The text form packs each length (from the third on, its difference to the one two before) into characters of six
bits, five of which are number. `pycocotools` reads what is written here, and the other way round.
"""

from collections.abc import Sequence

import numpy as np

from llavakit.core.errors import DataError

MOST = 2**31


def encode_rle(mask_HW: np.ndarray) -> dict[str, object]:
    """{size: [h, w], counts: text} of a mask; what is not zero is inside."""
    flat = np.asarray(mask_HW != 0).flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [len(flat)])))
    if len(flat) and flat[0]:
        runs = np.concatenate(([0], runs))
    return {"size": [int(side) for side in mask_HW.shape], "counts": _pack(runs.tolist())}


def decode_rle(size: Sequence[int], counts: str | Sequence[int]) -> np.ndarray:
    """bool[h, w]. DataError where the runs do not fill the size."""
    height, width = size
    runs = _unpack(counts) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise DataError(f"the runs of the mask do not fill {width} x {height} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape((height, width), order="F")


def _pack(runs: list[int]) -> str:
    characters = []
    for index, run in enumerate(runs):
        number, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(characters)


def _unpack(text: str) -> list[int]:
    runs: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DataError("the mask is not text as COCO packs runs")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            if abs(runs[-1]) > MOST:
                raise DataError("a run of the mask is longer than any picture")
            number, shift = 0, 0
    if shift:
        raise DataError("the mask's text ends in the middle of a number")
    return runs
