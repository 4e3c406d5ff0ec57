"""The kinds of files that the page gives back."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import PIL.Image

from llavakit.studio.looking import opaque
from llavakit.studio.render import flatten
from llavakit.studio.session import Session


@dataclass(frozen=True)
class Export:
    """A kind of file: words for people, its type and ending, and what makes it."""

    title: str
    words: str
    media_type: str
    ending: str
    make: Callable[[Session], bytes]


def _png(session: Session) -> bytes:
    return _saved(PIL.Image.fromarray(flatten(session.scene)), "PNG", icc_profile=session.picture.icc or None)


def _jpeg(session: Session) -> bytes:
    """With the profile and the tags of the file it began with; where it was transparent it is white."""
    image = PIL.Image.fromarray(opaque(flatten(session.scene)))
    picture = session.picture
    return _saved(image, "JPEG", quality=95, icc_profile=picture.icc or None, exif=picture.exif)


def _saved(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


EXPORTS = {
    "png": Export("PNG", "every pixel, with transparency", "image/png", ".png", _png),
    "jpeg": Export("JPEG", "small, with the data of the camera", "image/jpeg", ".jpg", _jpeg),
}
