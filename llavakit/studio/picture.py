"""Pictures in: upright pixels with their transparency, and what else the file says, to be written again."""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from llavakit.core.errors import DataError
from llavakit.studio import openraster
from llavakit.studio.openraster import Sheet
from llavakit.vision.image import load_rgba

ORIENTATION = 0x0112
LONGEST = 2**20  # bytes of a profile or of tags


@dataclass(frozen=True)
class Picture:
    """What a file holds: upright pixels in layers, the lowest first, and the tags that stay true.

    Those are the colour profile, and EXIF without its orientation.
    """

    size: tuple[int, int]  # width, height
    sheets: tuple[Sheet, ...]
    icc: bytes = b""
    exif: bytes = b""

    @property
    def checksum(self) -> int:
        """Of all pixels: another version of a decoder may give others."""
        sums = 0
        for sheet in self.sheets:
            sums = zlib.crc32(np.ascontiguousarray(sheet.rgba).data, sums)
        return sums


def read_picture(data: bytes, name: str = "photo") -> Picture:
    """A picture file, or OpenRaster. DataError for anything else."""
    if openraster.is_openraster(data):
        size, sheets = openraster.read_openraster(data)
        return Picture(size, sheets)
    rgba = np.asarray(load_rgba(data))
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            icc, exif = image.info.get("icc_profile") or b"", _tags(image)
    except (
        OSError,
        ValueError,
        SyntaxError,
        KeyError,
        TypeError,
    ):  # its pixels were read: tags may be broken
        icc, exif = b"", b""
    if icc[16:20] != b"RGB " or len(icc) > LONGEST:  # of grey or of ink: it says nothing of RGB
        icc = b""
    return Picture((rgba.shape[1], rgba.shape[0]), (Sheet(name, rgba),), icc, exif)


def read_file(path: Path) -> bytes:
    """The bytes of a picture file, or a DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None


def _tags(image: PIL.Image.Image) -> bytes:
    """EXIF without what is no longer true once the picture stands upright. b"" for none."""
    exif = image.getexif()
    exif.pop(ORIENTATION, None)
    if not len(exif):
        return b""
    packed = exif.tobytes()
    return packed if len(packed) <= LONGEST else b""
