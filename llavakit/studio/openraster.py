"""OpenRaster: the layers of a picture as PNG files in a zip, which GIMP, Krita and MyPaint open."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import PIL.Image

from llavakit.core.errors import DataError
from llavakit.studio.looking import opaque
from llavakit.studio.render import canvas_box, flatten, place_layer
from llavakit.studio.scene import Scene
from llavakit.studio.tiles import Pixels
from llavakit.vision.image import MAX_PIXELS, load_rgba

MIMETYPE = "image/openraster"
STACK = "stack.xml"
THUMBNAIL = 256  # pixels of its longer side
MOST_LAYERS = 200
LONGEST_STACK = 2**20  # bytes
LARGEST_FILE = 2**29  # bytes of one layer's PNG


@dataclass(frozen=True)
class Sheet:
    """Pixels of a layer, uint8[h, w, 4], and where on the canvas their corner lies."""

    name: str
    rgba: Pixels
    at: tuple[int, int] = (0, 0)
    opacity: float = 1.0
    visible: bool = True


def write_openraster(scene: Scene) -> bytes:
    """The bytes of an .ora file. Turned and resized layers are written as they are seen."""
    file = io.BytesIO()
    merged = flatten(scene)
    root = ElementTree.Element("image", version="0.0.3", w=str(scene.size[0]), h=str(scene.size[1]))
    stack = ElementTree.SubElement(root, "stack")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", MIMETYPE, zipfile.ZIP_STORED)
        for number, layer in enumerate(reversed(scene.layers)):  # the highest first
            box = canvas_box(layer.raster.size, layer.matrix)
            placed = place_layer(layer, box)
            assert placed is not None
            name = f"data/layer{number}.png"
            archive.writestr(name, _png(placed[0]), zipfile.ZIP_STORED)
            said = {
                "name": layer.name, "src": name, "x": str(box[0]), "y": str(box[1]),
                "opacity": f"{layer.opacity:g}", "visibility": "visible" if layer.visible else "hidden",
                "composite-op": "svg:src-over",
            }  # fmt: skip
            ElementTree.SubElement(stack, "layer", said)
        archive.writestr(STACK, ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))
        archive.writestr("mergedimage.png", _png(merged), zipfile.ZIP_STORED)
        small = PIL.Image.fromarray(opaque(merged))
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        archive.writestr("Thumbnails/thumbnail.png", _png(np.asarray(small)), zipfile.ZIP_STORED)
    return file.getvalue()


def is_openraster(data: bytes) -> bool:
    """Whether a file says that it is one: its first entry is its type, not packed."""
    return data[:4] == b"PK\x03\x04" and data[30 : 30 + 8 + len(MIMETYPE)] == b"mimetype" + MIMETYPE.encode()


def read_openraster(data: bytes) -> tuple[tuple[int, int], tuple[Sheet, ...]]:
    """(width, height) of the canvas and its layers, the lowest first. DataError for a broken or hostile file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            text = _entry(archive, STACK, LONGEST_STACK)
            if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
                raise DataError(f"{STACK} declares entities: it is not read")
            root = ElementTree.fromstring(text)
            size = int(root.get("w", "0")), int(root.get("h", "0"))
            if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
                raise DataError(f"a canvas of {size[0]} x {size[1]} pixels; the limit is {MAX_PIXELS} in all")
            found = list(_layers(root, (0, 0), 1.0, True))
            if not 0 < len(found) <= MOST_LAYERS:
                raise DataError(f"{len(found)} layers; from 1 to {MOST_LAYERS} are read")
            sheets = [
                Sheet(name, np.asarray(load_rgba(_entry(archive, source, LARGEST_FILE))), at, opacity, shown)
                for name, source, at, opacity, shown in found
            ]
    except (
        zipfile.BadZipFile,
        ElementTree.ParseError,
        KeyError,
        ValueError,
        NotImplementedError,
        EOFError,
    ) as error:
        raise DataError(f"a broken OpenRaster file: {error}") from None
    return size, tuple(reversed(sheets))


def _layers(
    node: ElementTree.Element, at: tuple[int, int], opacity: float, shown: bool
) -> Iterator[tuple[str, str, tuple[int, int], float, bool]]:
    """(name, file, place, opacity, visible) of every layer from the highest; groups are taken apart."""
    for child in node:
        x, y = at[0] + int(child.get("x", "0")), at[1] + int(child.get("y", "0"))
        strength = opacity * min(max(float(child.get("opacity", "1")), 0.0), 1.0)
        visible = shown and child.get("visibility", "visible") == "visible"
        if child.tag == "stack":
            yield from _layers(child, (x, y), strength, visible)
        elif child.tag == "layer":
            yield child.get("name", "layer")[:200] or "layer", child.get("src", ""), (x, y), strength, visible


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DataError(f"{name} is larger than {most} bytes")
    return data


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()
