"""Pictures that are worked on, each under a name nobody can guess: whoever has the name may work on it."""

import os
import re
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import write_text
from llavakit.core.progress import printable
from llavakit.studio.engines import Bench
from llavakit.studio.http.jobs import Line
from llavakit.studio.http.preparing import Preparation, warm_up
from llavakit.studio.http.receiving import receive
from llavakit.studio.http.settings import StudioConfig
from llavakit.studio.looking import SceneView
from llavakit.studio.session import Gone, Session
from llavakit.studio.tiles import Raster

NAME = re.compile(r"[A-Za-z0-9_-]{22}")  # what token_urlsafe(16) gives
TITLE = "title.txt"
LONGEST_TITLE = 120
FIRST = "as it came"  # the version that every picture begins with
IDLE = 60  # seconds without a request after which a picture may be closed


class Room:
    """One picture: its session, and what the page is told besides. `line`: what is being made for it."""

    def __init__(self, name: str, session: Session, title: str, line: Line) -> None:
        self.name, self.session, self.title, self.line = name, session, title, line
        self.preparation = Preparation()
        self.used = 0.0  # when it was last asked for
        self._lock = Lock()
        self._numbers: WeakKeyDictionary[Raster, int] = WeakKeyDictionary()
        self._fresh = count(secrets.randbelow(2**40))  # a page may remember those of before a restart

    def describe(self) -> dict[str, Any]:
        """What a page needs, with a number for the pixels of each layer: equal numbers, equal pixels."""
        said = self.session.describe()
        layers = {layer.id: layer for layer in self.session.scene_at(said["rev"]).layers}
        for layer in said["layers"]:
            layer["raster"] = self._number(layers[layer["id"]].raster)
        if said["talk"]:
            said["talk"][-1] |= {"outdated": self._outdated(said["talk"][-1]["rev"])}
        return said | {"title": self.title, **self.news()}

    def news(self) -> dict[str, Any]:
        """What goes on beside the picture's history."""
        return {
            "preparing": self.preparation.describe(),
            "jobs": [job.describe() for job in self.line.of(self.session)],
            "noticed": self.preparation.noticed(self.session),
        }

    def _outdated(self, rev: int) -> bool:
        """Whether the picture looks otherwise than at a revision."""
        try:
            before = self.session.scene_at(rev)
        except Gone:
            return True
        return SceneView(before).key != SceneView(self.session.scene).key

    def say(self, role: str, text: str, **more: Any) -> None:
        """A turn of the chat, whatever the page has done meanwhile."""
        self.session.apply({"do": "say", "role": role, "text": text, **more})

    def _number(self, raster: Raster) -> int:
        with self._lock:
            return self._numbers.setdefault(raster, next(self._fresh))


class Rooms:
    """All pictures of a folder. Of those that were not asked for lately only the files remain."""

    def __init__(
        self, settings: StudioConfig, bench: Bench, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.settings, self.bench, self._clock = settings, bench, clock
        self._open: OrderedDict[str, Room] = OrderedDict()
        self._lock, self.line = Lock(), Line()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="studio-prepare")
        try:
            settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"{settings.folder}: cannot be made: {error.strerror}") from None
        self.sweep()

    def warm_up(self) -> Future[None]:
        """Read the networks, before a picture comes."""
        return self._pool.submit(warm_up, self.bench)

    def create(self, data: bytes, title: str) -> Room:
        """A new picture from the bytes of a file. DataError for what is none."""
        self.sweep()
        if (
            sum(NAME.fullmatch(each.name) is not None for each in self.settings.folder.iterdir())
            >= self.settings.max_pictures
        ):
            raise DataError(
                f"this server holds {self.settings.max_pictures} pictures already; come back later"
            )
        name = secrets.token_urlsafe(16)
        folder = self.settings.folder / name
        title = printable(title).strip()[:LONGEST_TITLE] or "picture"
        session = receive(data, folder, self.bench, title)
        if not session.describe()["versions"]:
            session.apply({"do": "save_version", "name": FIRST})  # undo forgets some time, versions never
        write_text(folder / TITLE, title)
        with self._lock:
            return self._keep(Room(name, session, title, self.line))

    def get(self, name: str) -> Room | None:
        """The picture of this name, read from its files if need be."""
        if NAME.fullmatch(name) is None:
            return None
        with self._lock:
            room = self._open.get(name)
            if room is None:
                folder = self.settings.folder / name
                if folder.is_symlink() or not folder.is_dir():
                    return None
                room = Room(name, Session.open(folder, self.bench), _title(folder), self.line)
                os.utime(folder)  # somebody has looked at it
                return self._keep(room)
            self._open.move_to_end(name)
            room.used = self._clock()
            return room

    def remove(self, name: str) -> bool:
        """Forget a picture and delete its files; whether there was one."""
        room = self.get(name)
        if room is None:
            return False
        for job in self.line.of(room.session):
            self.line.cancel(room.session, job.id)
        with self._lock:
            self._open.pop(name).session.close()
            shutil.rmtree(self.settings.folder / name, ignore_errors=True)
        return True

    def sweep(self) -> int:
        """Delete what nobody has touched for long; how many pictures."""
        gone, oldest = 0, self._clock() - 3600 * self.settings.keep_hours
        for folder in self.settings.folder.iterdir():
            if NAME.fullmatch(folder.name) is None or folder.is_symlink() or folder.name in self._open:
                continue
            with suppress(OSError):
                if max(file.stat().st_mtime for file in (folder, *folder.iterdir())) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
                    gone += 1
        return gone

    def close(self) -> None:
        """Close all files."""
        self.line.close()
        self._pool.shutdown(cancel_futures=True)
        for room in self._open.values():
            room.session.close()
        self._open.clear()

    def _keep(self, room: Room) -> Room:
        """Hold a picture open, and close those that nobody works on. The lock is held."""
        room.used = self._clock()
        self._open[room.name] = room
        self._pool.submit(room.preparation.run, room.session)
        idle = [
            each
            for each in self._open.values()
            if each.used < room.used - IDLE and not self.line.of(each.session)
        ]
        for old in idle[: max(len(self._open) - self.settings.max_open, 0)]:
            self._open.pop(old.name).session.close()
        return room


def _title(folder: Path) -> str:
    try:
        return (folder / TITLE).read_text(encoding="utf-8")[:LONGEST_TITLE]
    except (OSError, UnicodeDecodeError):
        return "picture"
