"""Grey of more than 8 bits to 8 bits, by the depth and range that the file declares.

TIFF declares them (BitsPerSample, MinSampleValue to SMaxSampleValue), PNG may (sBIT), PPM always does. Where a file
only says how large a value's place is, 16-bit grey fills it, as it always did here. Signed, 32-bit and float values
hardly ever do: there the smallest usual range that holds all of them is taken, or what the user says they have.
"""

from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL.TiffImagePlugin import TiffImageFile

BITS, FORMAT, PHOTOMETRIC = 258, 339, 262  # TIFF's tags
RANGES = ((340, 341), (280, 281))  # SMin and SMax, Min and Max
SIGNED, WHITE_IS_ZERO = 2, 0
BLOCK = 2**20  # pixels that are scaled at once


class SpareBits(NamedTuple):
    """Bits that the values use, and bits that they are taken to have."""

    used: int
    taken: int


class Depth(NamedTuple):
    """What a header says of grey values: the ones shown black and white, and how they are stored."""

    black: float | None = None
    white: float | None = None
    significant: int | None = None  # bits of 16, as sBIT says
    unsigned: bool = False  # 32 bits that Pillow holds as signed
    inverted: bool = False  # the smallest value is white


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether its mode is grey of more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def declared(image: PIL.Image.Image) -> Depth:
    """What the header of an opened picture says."""
    if isinstance(image, TiffImageFile):
        return _of_tiff(image)
    if image.format == "PPM" and image.mode == "I":  # Pillow has scaled it by then
        return Depth(0, 65535)
    bits = image.info.get("sBIT")
    return Depth(significant=bits[0]) if isinstance(bits, bytes) and len(bits) == 1 else Depth()


def to_eight_bits(image: PIL.Image.Image, said: Depth, bits: int | None = None) -> PIL.Image.Image:
    """Mode L. `bits`: how many the values have where the file does not say it (the setting `image.depth`)."""
    values = _values(image, said)
    black, white = _range(values, said, bits)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BLOCK // values.shape[1])
    for at in range(0, len(values), rows):  # a large picture in float64 would be gigabytes
        grey[at : at + rows] = _scaled(values[at : at + rows], black, white)
    return PIL.Image.fromarray(255 - grey if said.inverted else grey)


def spare_bits(image: PIL.Image.Image, said: Depth) -> SpareBits | None:
    """Where nobody says how many bits the values have, and they look too dark for what is taken."""
    values = _values(image, said)
    if said.white is not None or values.dtype.kind == "f":
        return None
    black, white = _range(values, said, None)
    used = max(int(values.max()), -1 - int(values.min())).bit_length() + (black < 0)
    taken = int(white - black).bit_length()
    return SpareBits(used, taken) if used < taken - 1 else None


def _of_tiff(image: TiffImageFile) -> Depth:
    tags = image.tag_v2
    signed, bits = _number(tags.get(FORMAT)) == SIGNED, _number(tags.get(BITS))
    how = Depth(
        unsigned=image.mode == "I" and bits == 32 and not signed,
        # Pillow turns 8 bits over by itself, and no others.
        inverted=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
    )
    for low, high in RANGES:
        black, white = _number(tags.get(low)), _number(tags.get(high))
        if white is not None and (black or 0) < white:
            return how._replace(black=black or 0, white=white)
    return how._replace(black=0, white=4095) if bits == 12 else how


def _number(value: object) -> float | None:
    """A tag's only value, or its first."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _values(image: PIL.Image.Image, said: Depth) -> np.ndarray:
    values = np.asarray(image)
    return values.view(np.uint32) if said.unsigned else values


def _range(values: np.ndarray, said: Depth, bits: int | None) -> tuple[float, float]:
    """The values that are shown black and white."""
    if said.black is not None and said.white is not None:
        return said.black, said.white
    if said.significant is not None and _is_unscaled(values, said.significant):
        return 0, 2**said.significant - 1
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if bits is not None:
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if least < 0 else (0, 2**bits - 1)
    if values.dtype.itemsize == 2:
        return 0, 65535
    usual = ((0, 1), (0, 255)) if values.dtype.kind == "f" else INTEGERS
    return next(((low, high) for low, high in usual if low <= least and most <= high), (least, most))


INTEGERS = ((0, 255), (0, 65535), (-32768, 32767), (0, 2**32 - 1), (-(2**31), 2**31 - 1))


def _is_unscaled(values: np.ndarray, bits: int) -> bool:
    """Whether 16-bit grey of `bits` significant bits has them at the lower end, against the rule of PNG.

    By the rule they are the upper ones, so values so small are multiples of the step between two of them.
    """
    return bool(
        values.dtype.itemsize == 2
        and 8 < bits < 16
        and values.max() < 2**bits
        and (values & (2 ** (16 - bits) - 1)).any()
    )


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8 from black to white. Whole numbers are cut to 256 equal steps, so that 16 bits keep their high byte."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            steps = np.rint((values.astype(np.float64) - black) / (white - black or 1) * 255)
        return np.nan_to_num(steps, nan=0.0).clip(0, 255).astype(np.uint8)
    if (black, white) == (0, 65535) and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    steps = np.floor((values.astype(np.float64) - black) * 256 / (white - black + 1))
    return steps.clip(0, 255).astype(np.uint8)
