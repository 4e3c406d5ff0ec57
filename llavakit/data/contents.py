"""Digests of pictures and videos, each file read for it once: what a file held is known by its size and time.

Notes of it lie beside what they are needed for, one file a writer, so any number of runs may write at once.
"""

import os
import time
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

from llavakit.data.media import Clip, Media

FRESH = 2.0  # seconds: a file that changed so lately may change again with the same size and time


class Contents:
    """What media show, as `Media.content` names it; remembered for files and folders of frames."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps the notes."""
        self.folder = folder
        self._known: dict[
            str, tuple[str, str]
        ] = {}  # of each file by the digest of its name: its stamp, its content
        self._noted: list[str] = []  # lines that are not on the disk yet
        self._writer = uuid4().hex
        for file in sorted(folder.glob("*.seen")):
            for line in file.read_text().split("\n")[:-1]:  # a last line without its end was half written
                name, stamp, content = line.split(" ")
                self._known[name] = (stamp, content)

    def of(self, media: Media) -> str:
        """The content's name. A file that cannot be read is a DataError."""
        clip = media.source if isinstance(media.source, Clip) else None
        source = media.source if clip is None else clip.source
        if not isinstance(source, Path):
            return media.content()
        stamp, changed = _stamp(source)
        name = _short(f"{source.absolute()} {() if clip is None else clip.frames}")
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        content = media.content()
        if time.time() - changed > FRESH and _stamp(source)[0] == stamp:
            self._known[name] = (stamp, content)
            self._noted.append(f"{name} {stamp} {content}\n")
        return content

    def save(self) -> None:
        """Write down what was learned since the last time."""
        lines, self._noted = self._noted, []
        if lines:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{self._writer}.seen").open("a") as file:
                file.writelines(lines)


def _stamp(path: Path) -> tuple[str, float]:
    """Size and time of a file, or of all files in a folder, as one word; and the newest time in seconds."""
    try:
        found = [path.stat()]
        if path.is_dir():
            with os.scandir(path) as entries:
                found += [entry.stat() for entry in sorted(entries, key=lambda entry: entry.name)]
    except OSError:  # whoever reads it will say what is wrong
        return "", time.time()
    times = " ".join(f"{each.st_size} {each.st_mtime_ns}" for each in found)
    return _short(times), max(each.st_mtime for each in found)


def _short(text: str) -> str:
    return blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
