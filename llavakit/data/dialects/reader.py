"""A record being read: its fields, which of them have been looked at, and the media they name."""

import os
from pathlib import Path
from typing import Any

from llavakit.core.errors import DataError, shorten
from llavakit.data.shards import MAX_MEDIA, Members
from llavakit.text.conversation import Image, ImageSource, Video
from llavakit.vision.data_url import decode_data_url
from llavakit.vision.kinds import Sort

MAX_PATH, MAX_NAME = 4096, 255  # bytes of a path and of each name in it, as file systems have them


class Fields:
    """An object of a record. A null stands for what is not there: tables have one in every empty cell."""

    def __init__(self, raw: dict[str, Any], where: str) -> None:
        self.raw, self.where = raw, where
        self.seen: set[str] = set()

    def get(self, name: str) -> Any:
        self.seen.add(name)
        return self.raw.get(name)

    def at(self, name: str) -> str:
        """How a message calls a field."""
        return f"{self.where}.{name}" if self.where else name

    def left(self) -> dict[str, Any]:
        """What nobody has asked for, but nulls."""
        names = self.raw.keys() - self.seen
        return (
            {name: value for name, value in self.raw.items() if name in names and value is not None}
            if names
            else {}
        )


class Reader:
    """A record being read by its dialect. Every flaw is a DataError without a place, which the record adds."""

    def __init__(self, raw: dict[str, Any], folder: Path, members: Members | None = None) -> None:
        """Paths start at `folder`; with `members` (a sample of an archive) no name is a path."""
        self.folder, self.members = folder, members
        self.all: list[Fields] = []
        self.num_media = 0
        self.top = self._register(raw, "")

    def objects(self, name: str) -> list[Fields]:
        """The objects of a non-empty list."""
        listed = self.top.get(name)
        if not isinstance(listed, list) or not listed:
            raise DataError(f"'{name}' must be a non-empty list")
        return [self.fields(item, f"{name}[{number}]") for number, item in enumerate(listed)]

    def fields(self, raw: Any, where: str) -> Fields:
        if not isinstance(raw, dict):
            raise DataError(f"{where} must be an object, found {type(raw).__name__}")
        return self._register(raw, where)

    def images(self, name: str) -> list[Image]:
        """The pictures that a field lists; in an archive all of the sample's where it lists none."""
        return [self.image(cell, f"'{name}'") for cell in self._cells(name, "image")]

    def videos(self, name: str) -> list[Video]:
        """The videos that a field lists, as `images`."""
        return [self.video(cell, f"'{name}'") for cell in self._cells(name, "video")]

    def image(self, cell: Any, where: str) -> Image:
        self.num_media += 1
        return Image(self._source(cell, where))

    def video(self, cell: Any, where: str) -> Video:
        """A video's file, or the list of its frames."""
        self.num_media += 1
        if isinstance(cell, list) and cell:
            frames: list[ImageSource] = [self._source(frame, where) for frame in cell]
            return Video(tuple(frames))
        return Video(self._source(cell, where))

    def _register(self, raw: dict[str, Any], where: str) -> Fields:
        self.all.append(Fields(raw, where))
        return self.all[-1]

    def _cells(self, name: str, sort: Sort) -> list[Any]:
        listed = self.top.get(name)
        if listed is None:
            return [] if self.members is None else self.members.names(sort)
        return listed if isinstance(listed, list) else [listed]

    def _source(self, cell: Any, where: str) -> Path | bytes:
        """A path, bytes, a data URL, or path and bytes as `datasets` stores them."""
        if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}:
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes) and cell:
            return cell
        if not isinstance(cell, str) or not cell:
            raise DataError(
                f"{where} must be a path or a list of paths (in a table or archive also bytes),"
                f" found {shorten(repr(cell), 60)}"
            )
        scheme = cell[:8].partition(":")[0].lower()
        if scheme == "data":
            return decode_data_url(cell, MAX_MEDIA)[1]
        if self.members is not None:
            return self.members.read(cell)
        if scheme in ("http", "https"):
            raise DataError(
                f"{where} is an address on the web; download it and give its path: {shorten(cell)}"
            )
        return _path(self.folder, cell.removeprefix("file://"), where)


def _path(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if len(name) <= MAX_NAME and name.isascii() and name.isprintable():  # nearly always
        return path
    try:
        whole = os.fsencode(path)
    except UnicodeEncodeError:
        raise DataError(f"{where} is no path: it holds half a character (a lone surrogate)") from None
    if len(whole) > MAX_PATH or max(map(len, whole.split(b"/"))) > MAX_NAME or 0 in whole:
        raise DataError(
            f"{where} is no path: {shorten(repr(name), 60)}; bytes in base64 need data:image/png;base64, in front"
        )
    return path
