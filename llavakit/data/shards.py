"""Records of WebDataset tar files: `KEY.json` holds a record, `KEY.jpg` and its like are the media it shows.

A shard is indexed once by member and its media are read by offset. Nothing is ever written to disk, and no name in
an archive is used as a path. Not covered: a member's bytes go to the image and video decoders, which check them.
"""

import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from llavakit.core.errors import DataError, shorten
from llavakit.data.index import Unreadable, keep_arrays, parse_entry, read_span
from llavakit.vision.kinds import Sort

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts")
MAX_JSON = 1 << 24  # bytes of a record
MAX_MEDIA = 1 << 30  # bytes of a picture or video, which is held in memory
SAMPLE = (".json", *IMAGES, *VIDEOS)  # a sample has one of these; a README has not
APPLE = "._"  # macOS writes a file's attributes beside it under this name, with the file's own ending
ENDINGS: dict[Sort, tuple[str, ...]] = {"image": IMAGES, "video": VIDEOS}


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, and the bytes of the archive that it is."""

    name: str
    start: int
    size: int


@dataclass
class Entry:
    """The members that share a key."""

    key: str
    members: list[Member] = field(default_factory=list)

    def ending(self, *endings: str) -> list[Member]:
        return [member for member in self.members if member.name.lower().endswith(endings)]


@dataclass(frozen=True)
class Members:
    """The files of a sample: what a record in an archive may show."""

    path: Path  # of the archive
    entry: Entry

    def names(self, sort: Sort) -> list[str]:
        """All pictures or videos, in the archive's order."""
        return [member.name for member in self.entry.ending(*ENDINGS[sort])]

    def read(self, name: str) -> bytes:
        """A member by its name; a record may leave out the folder, or say the ending behind the key only."""
        member = next((member for member in self.entry.members if self._is_called(member, name)), None)
        if member is None:
            have = shorten(", ".join(repr(member.name) for member in self.entry.members), 400)
            raise DataError(
                f"{shorten(repr(name))} is not a member of sample {self.entry.key!r}, which has {have}"
            )
        if member.size > MAX_MEDIA:
            raise DataError(f"{member.name!r} has {member.size} bytes; the limit is {MAX_MEDIA}")
        data = read_span(self.path, member.start, member.start + member.size)
        if isinstance(data, Unreadable):
            raise DataError(f"{member.name!r} {data.problem}")
        return data

    def _is_called(self, member: Member, name: str) -> bool:
        base = PurePosixPath(member.name).name
        return name in (member.name, base, member.name.removeprefix(f"{self.entry.key}."))


@dataclass(frozen=True)
class Packed:
    """A record of an archive, and the files beside it."""

    record: Any
    members: Members


class ShardRows:
    """The samples of one shard, in the order of their first members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._firsts_E, self._members_M3, self._names_B = keep_arrays(path, index_shard, 3)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path=path) from None

    def __len__(self) -> int:
        return len(self._firsts_E)

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> Any:
        """A Packed record, or Unreadable."""
        entry = self._entry(index)
        texts = entry.ending(".json")
        if len(texts) != 1:
            return Unreadable(f"sample {entry.key!r} has {len(texts)} .json members; it must have one")
        if texts[0].size > MAX_JSON:
            return Unreadable(f"{texts[0].name!r} has {texts[0].size} bytes; the limit is {MAX_JSON}")
        text = read_span(self.path, texts[0].start, texts[0].start + texts[0].size)
        record = text if isinstance(text, Unreadable) else parse_entry(text)
        if isinstance(record, Unreadable):
            return Unreadable(f"{texts[0].name!r} is {record.problem}")
        return Packed(record, Members(self.path, entry))

    def _entry(self, index: int) -> Entry:
        first = int(self._firsts_E[index])
        last = int(self._firsts_E[index + 1]) if index + 1 < len(self) else len(self._members_M3)
        name_start = int(self._members_M3[first - 1, 2]) if first else 0
        members = []
        for start, size, name_end in self._members_M3[first:last].tolist():
            name = self._names_B[name_start:name_end].tobytes().decode("utf-8", "surrogateescape")
            members.append(Member(name, start, size))
            name_start = name_end
        return Entry(_key(members[0].name), members)


def index_shard(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64[E]: the first member of each sample. int64[M, 3]: first byte, size and end of the name of each member.

    uint8[B]: all names, one after the other.
    """
    firsts, members, names = array("q"), array("q"), bytearray()
    for entry in _entries(path):
        firsts.append(len(members) // 3)
        for member in entry.members:
            names += member.name.encode("utf-8", "surrogateescape")
            members.extend((member.start, member.size, len(names)))
    return (
        np.array(firsts, dtype=np.int64),
        np.array(members, dtype=np.int64).reshape(-1, 3),
        np.frombuffer(bytes(names), dtype=np.uint8),
    )


def _key(name: str) -> str:
    """What the members of a sample share: the name up to the first dot behind the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _entries(path: Path) -> Iterator[Entry]:
    """Neighbouring members with one key.

    What macOS adds is passed over, and so are files that are neither a record nor a medium nor beside one.
    """
    entry: Entry | None = None
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
                if not info.isreg() or info.issparse():
                    continue  # folders, links and devices are no data
                if info.offset_data + info.size > size:
                    raise DataError(f"the archive ends within {info.name!r}; copy it again", path=path)
                folder, _, base = info.name.rpartition("/")
                if base.startswith(APPLE) or base == ".DS_Store" or "__MACOSX" in folder.split("/"):
                    continue
                key = _key(info.name)
                if entry is None or entry.key != key:
                    if entry is not None and entry.ending(*SAMPLE):
                        yield entry
                    entry = Entry(key)
                entry.members.append(Member(info.name, info.offset_data, info.size))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"not a plain (unpacked) tar archive: {error}", path=path) from None
    if entry is not None and entry.ending(*SAMPLE):
        yield entry
