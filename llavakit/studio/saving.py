"""Documents out: a picture, layers, masks, the whole session."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import PIL.Image

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import atomic_directory, write_bytes
from llavakit.studio import masks
from llavakit.studio.looking import opaque
from llavakit.studio.openraster import write_openraster
from llavakit.studio.picture import Picture
from llavakit.studio.render import flatten
from llavakit.studio.scene import EditError, Scene
from llavakit.studio.store import JOURNAL, PICTURE, TILES
from llavakit.studio.tiles import Raster
from llavakit.vision.rle import encode_rle

QUALITY = 95  # of JPEG, colours at full size: a picture that was edited once more should not show it
SESSION_PARTS = (JOURNAL, TILES, PICTURE)
LARGEST_SESSION = 2**33  # bytes, unpacked
BLOCK = 2**20


def encode_picture(scene: Scene, picture: Picture, suffix: str) -> bytes:
    """The bytes of a file as its suffix says: .png with transparency, .jpg over white, .webp, .ora with layers.

    The colour profile and the tags of the file that the document began with go along. ConfigError for others.
    """
    if suffix == ".ora":
        return write_openraster(scene)
    kept: dict[str, Any] = {}
    if picture.icc:
        kept["icc_profile"] = picture.icc
    if picture.exif:
        kept["exif"] = picture.exif
    rgba, file = flatten(scene), io.BytesIO()
    clear = bool((rgba[..., 3] < 255).any())
    if suffix in (".jpg", ".jpeg"):
        PIL.Image.fromarray(opaque(rgba)).save(file, "jpeg", quality=QUALITY, subsampling=0, **kept)
    elif suffix == ".png":
        PIL.Image.fromarray(rgba if clear else opaque(rgba)).save(file, "png", **kept)
    elif suffix == ".webp":
        PIL.Image.fromarray(rgba if clear else opaque(rgba)).save(
            file, "webp", lossless=True, exact=True, **kept
        )
    else:
        raise ConfigError(f"a picture is saved as .png, .jpg, .webp or .ora, not {suffix!r}")
    return file.getvalue()


def save_picture(scene: Scene, picture: Picture, path: Path) -> None:
    """Write a picture file, whole or not at all."""
    write_bytes(path, encode_picture(scene, picture, path.suffix.lower()))


def encode_mask(scene: Scene) -> dict[str, object]:
    """The selection as COCO has masks: {size: [h, w], counts}, as large as the canvas."""
    return encode_rle(masks.read_mask(scene.selected().mask) >= masks.INSIDE)


def encode_coco(scene: Scene, name: str = "picture") -> dict[str, Any]:
    """Kept objects, and the selection where none are kept, as a COCO file of one picture."""
    things = [(kept.label, kept.mask) for kept in scene.objects]
    if not things:
        things = [(scene.selected().label or "object", scene.selected().mask)]
    labels = sorted({label for label, _ in things})
    width, height = scene.size
    return {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels, 1)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": labels.index(label) + 1,
                "iscrowd": 0,
                **_annotation(mask),
            }
            for number, (label, mask) in enumerate(things, 1)
        ],
    }


def save_coco(scene: Scene, path: Path, name: str) -> None:
    write_bytes(path, json.dumps(encode_coco(scene, name)).encode())


def pack_session(folder: Path, path: Path) -> None:
    """A session's folder as one file. Lines that are added meanwhile may be missing in it, none is cut."""
    end = (folder / JOURNAL).read_bytes()
    whole = end[: end.rfind(b"\n") + 1]  # read first: pixels of its lines were written before them
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(JOURNAL, whole)
        for name in (TILES, PICTURE):
            archive.write(folder / name, name)
    write_bytes(path, file.getvalue())


def unpack_session(path: Path, folder: Path) -> None:
    """A folder that `Session.open` opens, from a session's file. DataError for any other file."""
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another folder")
    try:
        with zipfile.ZipFile(path) as archive, atomic_directory(folder) as draft:
            if sorted(archive.namelist()) != sorted(SESSION_PARTS):
                raise DataError("not a session that was saved here", path=path)
            left = LARGEST_SESSION
            for name in SESSION_PARTS:  # names of ours: nothing is written where a file says
                with archive.open(name) as source, (draft / name).open("wb") as out:
                    while block := source.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise DataError(f"larger than {LARGEST_SESSION} bytes", path=path)
                        out.write(block)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DataError(f"not a session that was saved here: {error}", path=path) from None


def _annotation(mask: Raster) -> dict[str, Any]:
    box = mask.content_box()
    if box is None:
        raise EditError("an object without any pixel cannot be saved")
    inside = masks.read_mask(mask) >= masks.INSIDE
    left, top, right, bottom = box
    return {
        "segmentation": encode_rle(inside),
        "bbox": [left, top, right - left, bottom - top],
        "area": int(inside.sum()),
    }
