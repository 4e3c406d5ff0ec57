"""Files that say what is known about pictures: rows of ours that name them, and COCO's captions and boxes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.dialects.reader import Fields
from llavakit.data.records import ADVICE, Record, read_records
from llavakit.synth.items import Box, Item, Known, read_known

NAMES = ("image", "video", "id")  # what may say which picture a row is about


class Facts:
    """What is known, by the names that files call pictures by; all of it in memory."""

    def __init__(self, files: Iterable[Path]) -> None:
        """DataError, with file:line, for a row that cannot be read or names no picture."""
        self._known: dict[str, Known] = {}
        self._places: dict[str, str] = {}
        for file in files:
            for name, known, place in _read(file):
                before = self._known.get(name)
                self._known[name] = known if before is None else before.with_more(known)
                self._places.setdefault(name, place)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, item: Item) -> Known:
        """What is known about an item: by its own row first, then by the files."""
        found = item.known
        for name in item.names:
            if name in self._known:
                return found.with_more(self._known[name])
        return found

    def check(self, items: Iterable[Item]) -> None:
        """DataError if a name is that of no picture (a typo would cost all pictures their facts), or of two."""
        if not self._known:
            return
        owners: dict[str, str] = {}
        for item in items:
            name = next((name for name in item.names if name in self._known), None)
            if name is not None and owners.setdefault(name, item.path or item.id) != (item.path or item.id):
                raise DataError(
                    f"{self._places[name]}: {name!r} is the name of two pictures, {owners[name]} first"
                )
        left = [name for name in self._known if name not in owners]
        if left:
            raise DataError(
                f"{self._places[left[0]]}: {len(left)} of {len(self._known)} pictures that facts name are not "
                f"among the images, {left[0]!r} first; give those images too, or --unknown skip"
            )


def _read(file: Path) -> Iterator[tuple[str, Known, str]]:
    """(name of a picture, what is known, file:line)."""
    records = read_records(file)
    for record in records:
        raw = record.raw
        if isinstance(raw, dict) and isinstance(raw.get("images"), list) and "annotations" in raw:
            yield from _coco(record, raw)
            continue
        try:
            if not isinstance(raw, dict):
                raise record.error(f"a row must be an object, found {type(raw).__name__}")
            name = next((raw[key] for key in NAMES if isinstance(raw.get(key), str | int)), None)
            if name is None:
                raise DataError("a row must name its picture: 'image', 'video' or 'id'")
            known = read_known(Fields(raw, ""))
        except DataError as error:
            raise DataError(error.what.removesuffix(ADVICE), path=record.path, line=record.line) from None
        yield str(name), known, record.name


def _coco(record: Record, raw: dict[str, Any]) -> Iterator[tuple[str, Known, str]]:
    """COCO's annotations: captions, or boxes in pixels (x, y, width, height) with categories."""
    try:
        pictures = {each["id"]: each for each in raw["images"]}
        categories = {each["id"]: str(each["name"]) for each in raw.get("categories", [])}
        for each in raw["annotations"]:
            picture = pictures.get(each["image_id"])
            if picture is None:
                what = (
                    f"annotation {each.get('id')} is of image_id {each['image_id']}, not among its 'images'"
                )
                raise DataError(what, path=record.path)
            captions = (str(each["caption"]).strip(),) if "caption" in each else ()
            boxes = (_box(each["bbox"], picture, categories[each["category_id"]]),) if "bbox" in each else ()
            yield str(picture["file_name"]), Known(captions=captions, boxes=boxes), str(record.path)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"not annotations as COCO has them: {type(error).__name__}: {error}"
        raise DataError(what, path=record.path) from None


def _box(bbox: list[float], picture: dict[str, Any], label: str) -> Box:
    x, y, wide, high = map(float, bbox)
    width, height = float(picture["width"]), float(picture["height"])
    corners = (x / width, y / height, (x + wide) / width, (y + high) / height)
    x1, y1, x2, y2 = (min(1.0, max(0.0, each)) for each in corners)
    return Box(label, (x1, y1, x2, y2))
