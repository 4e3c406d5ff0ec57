"""What data is made from: pictures or videos with what is known about them, out of a folder or a file of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError, DataError, shorten
from llavakit.data.cases import Case, brings_answers, read_case
from llavakit.data.dialects.reader import Fields, Reader
from llavakit.data.dialects.table import DIALECTS
from llavakit.data.records import ADVICE, Record, Records, read_records
from llavakit.text.conversation import Image, Medium, Video
from llavakit.vision.video import name_of

PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
)
VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"))


@dataclass(frozen=True)
class Box:
    """An object: its category and where it is, x1, y1, x2, y2 as shares of width and height."""

    label: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Known:
    """What somebody wrote about a picture or video."""

    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    mentions: tuple[str, ...] = ()  # what an article says of its figure, besides the caption
    domain: str = ""  # of a medical figure, as CT
    text: str = ""  # what is written in the picture
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()  # to the first question, to be judged
    reference: str = ""  # an answer that is right
    label: Any = None  # of two answers 1, 2 or "tie", the better one

    def with_more(self, other: "Known") -> "Known":
        """Both together; what is there once stays."""
        return Known(
            self.captions + other.captions, self.boxes + other.boxes, self.mentions + other.mentions,
            self.domain or other.domain, self.text or other.text, self.questions + other.questions,
            self.answers or other.answers, self.reference or other.reference,
            other.label if self.label is None else self.label,
        )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """What one row is made from."""

    id: str
    media: tuple[Medium, ...]
    known: Known = Known()
    place: str = ""  # of the row it came from, for messages

    @property
    def path(self) -> str:
        """Of its first medium; nothing where that is no file."""
        source = self.media[0].source if self.media else None
        return str(source) if isinstance(source, Path) else ""

    @property
    def names(self) -> tuple[str, ...]:
        """What a file of facts may call it: its id, and the path, name and stem of its first medium."""
        path = Path(self.path)
        return tuple(dict.fromkeys((self.id, self.path, path.name, path.stem))) if self.path else (self.id,)

    @property
    def videos(self) -> tuple[Video, ...]:
        return tuple(part for part in self.media if isinstance(part, Video))

    def error(self, what: str) -> DataError:
        """A flaw of what was given, with its place."""
        return DataError(f"{self.place or self.id}: {what}")


class Items:
    """All items of a folder or a file, one in memory at a time; a folder's are in the order of their names."""

    def __init__(self, source: Path, *, images: Path | None = None, group: int = 1) -> None:
        """`images` is where relative paths of a file start. Of a folder so many pictures in a row are an item."""
        self.source, self._group = source, group
        self._found: list[Path] | Records = (
            _list_folder(source) if source.is_dir() else read_records(source, images)
        )
        if not len(self):
            raise DataError(f"no picture or video in {source}")

    def __len__(self) -> int:
        return len(self._found) // self._group if isinstance(self._found, list) else len(self._found)

    def __getitem__(self, index: int) -> Item:
        """DataError, with file:line, for a row that is none."""
        if isinstance(self._found, list):
            paths = self._found[index * self._group : (index + 1) * self._group]
            return _of_paths(paths, self.source)
        return _of_record(self._found[index])

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


def _list_folder(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    return [path for path in files if path.suffix.lower() in PICTURES | VIDEOS]


def _of_paths(paths: Sequence[Path], folder: Path) -> Item:
    media = tuple(Video(path) if path.suffix.lower() in VIDEOS else Image(path) for path in paths)
    return Item("+".join(str(path.relative_to(folder)) for path in paths), media, Known(), str(paths[0]))


def _of_record(record: Record) -> Item:
    raw = record.raw
    try:
        if not isinstance(raw, dict):
            raise record.error(f"a row must be an object, found {type(raw).__name__}")
        if brings_answers(raw) and "question" not in raw:
            return _of_case(read_case(record), record)
        if any(dialect.fits(raw) for dialect in DIALECTS):
            return _of_talk(record)
        reader = Reader(raw, record.folder, record.members)
        media: tuple[Medium, ...] = (
            *reader.images("image"), *reader.images("images"), *reader.videos("video"),
        )  # fmt: skip
        known = read_known(reader.top)
    except DataError as error:
        raise DataError(error.what.removesuffix(ADVICE), path=record.path, line=record.line) from None
    return _named(Item("", media, known, record.name), raw.get("id"))


def _of_case(case: Case, record: Record) -> Item:
    """Of a pair of answers in any dialect, or a benchmark of judges: what a critique is written about."""
    labels = {-1.0: 1, 1.0: 2, 0.0: "tie"}
    known = Known(
        captions=tuple(filter(None, [case.context])), questions=(case.question,), answers=case.answers,
        reference=case.reference, label=None if case.label is None else labels[case.label],
    )  # fmt: skip
    return Item(case.id, case.media, known, record.name)


def _of_talk(record: Record) -> Item:
    """Of a training record: its media and questions; the answer to a lone question describes them."""
    talk, rest = record.read()
    questions = [m.text.strip() for m in talk.messages if m.role == "user" and m.text.strip()]
    answers = [m.text.strip() for m in talk.messages if m.role == "assistant"]
    more = read_known(Fields(rest, ""))
    known = Known(captions=tuple(answers if len(answers) == 1 else ()), questions=tuple(questions))
    return _named(Item("", talk.media, more.with_more(known), record.name), rest.get("id"))


def _named(item: Item, given: Any) -> Item:
    if given is not None:
        return replace(item, id=str(given))
    sources = [
        name_of(medium.source) if isinstance(medium, Video) else medium.source for medium in item.media
    ]
    names = [Path(source).stem for source in sources if isinstance(source, str | Path)]
    return replace(item, id="+".join(names) or item.place.rpartition(":")[2])


def read_known(fields: Fields) -> Known:
    """What the fields of a row say. DataError, without a place, for one of the wrong kind."""
    answers = _texts(fields, "answers") or _texts(fields, "answer")
    return Known(
        _texts(fields, "captions") + _texts(fields, "caption"),
        tuple(_box(cell) for cell in _list(fields, "boxes")),
        _texts(fields, "mentions"),
        _one(fields, "domain"),
        _one(fields, "text"),
        _texts(fields, "questions") + _texts(fields, "question"),
        answers,
        _one(fields, "reference"),
        fields.get("label"),
    )


def _list(fields: Fields, name: str) -> list[Any]:
    value = fields.get(name)
    return [] if value is None else value if isinstance(value, list) else [value]


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    values = _list(fields, name)
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{fields.at(name)} must be a text or a list of texts")
    return tuple(value.strip() for value in values if value.strip())


def _one(fields: Fields, name: str) -> str:
    texts = _texts(fields, name)
    if len(texts) > 1:
        raise DataError(f"{fields.at(name)} must be one text, found {len(texts)}")
    return texts[0] if texts else ""


def _box(cell: Any) -> Box:
    label = cell.get("label") if isinstance(cell, dict) else None
    corners = cell.get("box") if isinstance(cell, dict) else None
    numbers = isinstance(corners, list) and all(type(each) in (int, float) for each in corners)
    if not isinstance(label, str) or not isinstance(corners, list) or not numbers or len(corners) != 4:
        raise DataError(f"a box is {{label, box: [x1, y1, x2, y2]}}, found {shorten(repr(cell), 80)}")
    x1, y1, x2, y2 = corners
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise DataError(f"box {corners} of {label!r}: x1, y1, x2, y2 are shares of width and height, 0 to 1")
    return Box(label, (x1, y1, x2, y2))
