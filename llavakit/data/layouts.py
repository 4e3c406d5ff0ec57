"""The files that benchmarks are published as: JSON, JSON lines, Parquet, TSV; pictures beside or inside them."""

import base64
import binascii
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llavakit.core.errors import DataError
from llavakit.data.records import read_records
from llavakit.text.conversation import IMAGE_TOKEN, Image, ImageSource, Part, Text

SHORT = "\nAnswer the question using a single word or phrase."
DELIMITERS = {".tsv": "\t", ".csv": ","}
VIDEOS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
LETTER = "\nAnswer with the option's letter from the given choices directly."


class Fields(dict[str, Any]):
    """A row of a file; a field that is not there is one line with the place."""

    def __init__(self, raw: Any, path: Path, line: int | None = None) -> None:
        if not isinstance(raw, dict):
            raise DataError(f"an object was expected, found {type(raw).__name__}", path=path, line=line)
        super().__init__(raw)
        self.path, self.line = path, line

    def __missing__(self, key: str) -> Any:
        known = ", ".join(list(self)[:12])
        raise DataError(f"no field {key!r}; it has {known}", path=self.path, line=self.line)

    def error(self, what: str) -> DataError:
        return DataError(what, path=self.path, line=self.line)


def find(folder: Path, *patterns: str) -> Path:
    """The first file that fits a pattern (`*.json`), tried in order; a DataError names what was looked for."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise DataError(f"not there: {' or '.join(patterns)}", path=folder)


def find_all(folder: Path, *patterns: str) -> list[Path]:
    """All files of the first pattern that fits any."""
    first = find(folder, *patterns)
    return next(found for pattern in patterns if first in (found := sorted(folder.glob(pattern))))


def read_object(path: Path) -> Fields:
    """A file that is one JSON object."""
    try:
        return Fields(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", path=path) from None


def rows_of(whole: Fields, key: str) -> list[Fields]:
    """The list of objects under a key."""
    rows = whole[key]
    if not isinstance(rows, list):
        raise whole.error(f"{key!r} is not a list")
    return [Fields(row, whole.path) for row in rows]


def read_rows(path: Path) -> Iterator[Fields]:
    """The rows of a JSON list, JSON lines, Parquet, TSV or CSV."""
    if path.suffix in DELIMITERS:
        yield from read_table(path)
        return
    for record in read_records(path):
        yield Fields(record.raw, path, record.line)


def read_table(path: Path) -> Iterator[Fields]:
    """The rows of a .tsv or .csv file with a header, cells quoted as `pandas` writes them."""
    csv.field_size_limit(sys.maxsize)  # cells hold pictures
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=DELIMITERS[path.suffix])
            for row in reader:
                yield Fields(row, path, reader.line_num)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a table: {error}", path=path) from None


def picture_in(row: Fields, key: str, folder: Path) -> bytes | Path:
    """The picture in a cell: {"bytes", "path"} as `datasets` stores it, bytes, or a path beside the file."""
    cell = row[key]
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str) and cell:
        return folder / cell
    raise row.error(f"{key!r} holds no picture")


def video_at(folder: Path, name: str) -> Path:
    """A video by its name, with or without its ending, or a folder of its frames.

    Where none is there yet, the first that was looked for: who asks about it says that it is missing.
    """
    bare = folder / name
    if bare.suffix in VIDEOS and not bare.exists():
        bare = bare.with_suffix("")
    tried = [bare, *(bare.with_name(bare.name + ending) for ending in VIDEOS)]
    return next((path for path in tried if path.exists()), folder / name)


def interleaved(text: str, pictures: Sequence[ImageSource]) -> tuple[Part, ...]:
    """The text with its pictures where <image> stands; those without a place come first."""
    pieces = text.split(IMAGE_TOKEN)
    places = min(len(pieces) - 1, len(pictures))
    ahead, rest = pictures[: len(pictures) - places], pictures[len(pictures) - places :]
    parts: list[Part] = [Image(picture) for picture in ahead]
    for at, piece in enumerate(pieces):
        if piece:
            parts.append(Text(piece))
        if at < places:
            parts.append(Image(rest[at]))
    return tuple(parts)


def pictures_in(row: Fields, key: str, folder: Path) -> list[bytes | Path]:
    """The pictures in a cell that is a list of such."""
    cells = row[key]
    if not isinstance(cells, list) or not cells:
        raise row.error(f"{key!r} is no list of pictures")
    return [picture_in(Fields({key: cell}, row.path, row.line), key, folder) for cell in cells]


def picture_of_base64(row: Fields, text: str) -> bytes:
    """The bytes of a picture that is written as base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise row.error("the picture is not base64") from None


def text_in(row: Fields, key: str) -> str:
    """A field that is a text or a number, as text."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise row.error(f"{key!r} is not a text")
    return str(value)


def texts_in(row: Fields, key: str) -> list[str]:
    """A field that is a list of texts, at least one."""
    values = row[key]
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(v, str | int | float) for v in values)
    ):
        raise row.error(f"{key!r} is not a list of texts")
    return list(map(str, values))


def lettered(texts: Sequence[str]) -> dict[str, str]:
    """A, B, C ... to each text."""
    return dict(zip(ascii_uppercase, map(str, texts), strict=False))


def listed(options: Mapping[str, str]) -> str:
    """The options as LLaVA-1.5 shows them: "A. text" a line."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def letter_at(row: Fields, index: Any, options: Mapping[str, str]) -> str:
    """The letter of the option with this number, from 0."""
    try:
        return list(options)[int(index)]
    except (ValueError, TypeError, IndexError):
        raise row.error(f"answer {index!r} is not the number of one of {len(options)} options") from None


def check_letter(row: Fields, letter: Any, options: Mapping[str, str]) -> str:
    """A letter that is one of the options."""
    if letter not in options:
        raise row.error(f"answer {letter!r} is none of the options {', '.join(options)}")
    return str(letter)
