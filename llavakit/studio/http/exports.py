"""The kinds of files that the page gives back."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llavakit.studio.document import SESSION_SUFFIX
from llavakit.studio.http.rooms import Room
from llavakit.studio.saving import encode_coco, encode_picture, pack_session


@dataclass(frozen=True)
class Export:
    """A kind of file: words for people, its type and ending, and what makes it."""

    title: str
    words: str
    media_type: str
    ending: str
    make: Callable[[Room], bytes]


def _picture(title: str, words: str, media_type: str, suffix: str) -> Export:
    def make(room: Room) -> bytes:
        return encode_picture(room.session.scene, room.session.picture, suffix)

    return Export(title, words, media_type, suffix, make)


def _coco(room: Room) -> bytes:
    return json.dumps(encode_coco(room.session.scene, room.title)).encode()


def _session(room: Room) -> bytes:
    folder = room.session.folder
    assert folder is not None
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "session"
        pack_session(folder, file)
        return file.read_bytes()


EXPORTS = {
    "png": _picture("PNG", "every pixel, with transparency", "image/png", ".png"),
    "jpeg": _picture("JPEG", "small; with the camera's data and colour profile", "image/jpeg", ".jpg"),
    "ora": _picture("OpenRaster", "layers, for GIMP, Krita and others", "image/openraster", ".ora"),
    "coco": Export("COCO masks", "kept objects, or the selection", "application/json", ".json", _coco),
    "session": Export(
        "Session", "everything, to go on elsewhere", "application/zip", SESSION_SUFFIX, _session
    ),
}
