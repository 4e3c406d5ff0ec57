"""The doors a picture comes in by: a path, bytes, an image that Pillow has opened, one that it has decoded."""

import io
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from llavakit.vision.image import Source


def doors(data: bytes, folder: Path) -> Iterator[Source]:
    """The same picture as each kind of source. A door that Pillow itself keeps shut is left out."""
    path = folder / "picture"
    path.write_bytes(data)
    yield path
    yield data
    try:
        yield PIL.Image.open(path)
        decoded = PIL.Image.open(io.BytesIO(data))
        decoded.load()
    except ValueError:
        return
    yield decoded
