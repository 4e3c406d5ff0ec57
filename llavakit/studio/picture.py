"""Pictures in: upright pixels with their transparency, and what else the file says, to be written again."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from llavakit.core.errors import DataError
from llavakit.studio.tiles import Pixels
from llavakit.vision.image import load_rgba

ORIENTATION = 0x0112
LONGEST = 2**20  # bytes of a profile or of tags


@dataclass(frozen=True)
class Picture:
    """uint8[h, w, 4], upright, and the tags that stay true: the colour profile and EXIF without its orientation."""

    rgba: Pixels
    icc: bytes = b""
    exif: bytes = b""


def read_picture(data: bytes) -> Picture:
    """A picture file. DataError for anything else."""
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
    return Picture(rgba, icc, exif)


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
