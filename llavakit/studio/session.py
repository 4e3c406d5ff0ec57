"""One picture, one history: commands in, revisions out; what was answered is on the disk."""

import hashlib
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.files import atomic_directory
from llavakit.studio import masks
from llavakit.studio.commands import (
    AnyCommand,
    Command,
    Redo,
    Restore,
    SaveVersion,
    Say,
    Undo,
    read_command,
    write_command,
)  # fmt: skip
from llavakit.studio.damage import damage_between
from llavakit.studio.describe import describe_scene
from llavakit.studio.edits.making import Making
from llavakit.studio.edits.table import make, perform, warnings
from llavakit.studio.engines import Bench, Watch, unwatched
from llavakit.studio.history import History, Limits
from llavakit.studio.picture import Picture, read_file, read_picture
from llavakit.studio.pyramid import small
from llavakit.studio.render import flatten, square
from llavakit.studio.scene import EditError, Layer, Scene
from llavakit.studio.store import JOURNAL, PICTURE, Store
from llavakit.studio.tiles import Box, Pixels, raster_of

FORMAT = 1  # of the folder
LONGEST_ID = 200


class Conflict(EditError):
    """The command was made for another revision than the newest, `rev`. Nothing was done."""

    def __init__(self, rev: int) -> None:
        super().__init__(f"the picture has changed: it is at revision {rev}")
        self.rev = rev


class Gone(EditError):
    """A revision that is no longer kept, or never was."""


@dataclass(frozen=True)
class Answer:
    """What came of a command. `damage`: where the canvas may look different from the revision before."""

    rev: int
    damage: Box | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class _Known:
    """What a session knows beside its history, told from the journal."""

    answers: dict[str, tuple[str, Answer]] = field(default_factory=dict)  # of an id: the command's digest
    versions: dict[str, Scene] = field(default_factory=dict)
    talk: list[dict[str, Any]] = field(default_factory=list)
    revisions: dict[int, Scene] = field(default_factory=dict)
    rev: int = 0


class Session:
    """A document that answers commands. Any thread may ask; work that takes long does not hold up the others."""

    def __init__(self, picture: Picture, store: Store | None, bench: Bench, limits: Limits) -> None:
        self.picture, self.bench, self._store = picture, bench, store
        scene = first_scene(picture)
        self._lock, self._known = threading.RLock(), _Known(revisions={0: scene})
        self._history = History(scene, limits)

    @classmethod
    def create(
        cls,
        folder: Path | None,
        picture: Path | bytes,
        bench: Bench,
        *,
        limits: Limits | None = None,
        name: str = "photo",
    ) -> Self:
        """A session of a picture file, in a folder that must not exist, or in memory. DataError, ConfigError."""
        data = picture if isinstance(picture, bytes) else read_file(picture)
        name = picture.name if isinstance(picture, Path) else name
        limits = limits or Limits()
        read = read_picture(data, name)
        if folder is None:
            return cls(read, None, bench, limits)
        if folder.exists():
            raise ConfigError(f"{folder} exists; open it, or choose another folder")
        with atomic_directory(folder) as draft:
            (draft / PICTURE).write_bytes(data)
            head = {
                "format": FORMAT, "name": name, "pixels": read.checksum, "limits": limits.model_dump(),
            }  # fmt: skip
            store = Store(draft)
            store.add(head)
            store.close()
        return cls.open(folder, bench, picture=read)

    @classmethod
    def open(cls, folder: Path, bench: Bench, *, picture: Picture | None = None) -> Self:
        """The session of a folder, with all that was answered. `picture`: its file, where it was just read."""
        if not (folder / JOURNAL).is_file():
            raise ConfigError(f"{folder}: not a session: it has no {JOURNAL}")
        store = Store(folder)
        head = store.rows[0] if store.rows else {}
        if head.get("format") != FORMAT:
            store.close()
            raise DataError("not a session of this version of llavakit", path=folder / JOURNAL)
        read = picture or read_picture(read_file(folder / PICTURE), head["name"])
        if head["pixels"] != read.checksum:
            store.close()
            raise DataError("the picture is not the one that the session began with", path=folder / PICTURE)
        session = cls(read, store, bench, Limits(**head["limits"]))
        session._replay()
        return session

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def folder(self) -> Path | None:
        """Where it is kept; None: in memory only."""
        return None if self._store is None else self._store.folder

    @property
    def rev(self) -> int:
        return self._known.rev

    @property
    def scene(self) -> Scene:
        return self._history.scene

    def apply(
        self,
        command: AnyCommand | dict[str, Any],
        *,
        id: str = "",
        base_rev: int | None = None,
        gesture: str = "",
        watch: Watch = unwatched,
    ) -> Answer:
        """Do a command: see the contract of this package. EditError, Conflict; nothing is changed then.

        `watch` is told how much of a generative engine's work is done, and ends it by what it raises.
        """
        asked = read_command(command) if isinstance(command, dict) else command
        made: Making | None = None
        id, started = id or uuid.uuid4().hex, time.perf_counter()
        if len(id) > LONGEST_ID or len(gesture) > LONGEST_ID:
            raise EditError(f"an id has at most {LONGEST_ID} characters")
        while True:
            with self._lock:
                known = self._answered(id, asked)
                if known is not None:
                    return known
                rev, before = self.rev, self.scene
                if base_rev not in (None, rev):
                    raise Conflict(rev)
                if isinstance(asked, Undo | Redo | Restore | SaveVersion | Say):
                    return self._commit(id, asked, gesture, None, started)
            made = made or make(before, asked, replace(self.bench, watch=watch))
            after = perform(before, asked, self.bench) if made is None else made.lay(before)
            with self._lock:
                if self.rev == rev:
                    return self._commit(id, asked, gesture, after, started)
                # Somebody was faster. Who said what they saw is told so above; else it is done again, but what an
                # engine made is laid on what is there now.

    def describe(self) -> dict[str, Any]:
        """All but pixels, as JSON has it."""
        with self._lock:
            return {
                "rev": self.rev,
                **describe_scene(self.scene),
                "can_undo": self._history.can_undo,
                "can_redo": self._history.can_redo,
                "versions": [
                    {"name": name, "rev": self._rev_of(scene)} for name, scene in self._known.versions.items()
                ],
                "talk": [dict(turn) for turn in self._known.talk],
            }

    def _rev_of(self, scene: Scene) -> int:
        """A revision at which a scene that is kept is seen."""
        return next(rev for rev, each in self._known.revisions.items() if each is scene)

    def scene_at(self, rev: int) -> Scene:
        """What was there at a revision, or Gone."""
        with self._lock:
            if rev not in self._known.revisions:
                raise Gone(f"revision {rev} is not kept")
            return self._known.revisions[rev]

    def version(self, name: str) -> Scene:
        """A named version, or an EditError."""
        if name not in self._known.versions:
            raise EditError(f"there is no version {name!r}")
        return self._known.versions[name]

    def tile(self, rev: int, z: int, x: int, y: int, layer: int | None = None) -> Pixels:
        """uint8[h, w, 4]: a square of what is visible, or of one layer in its own pixels, halved `z` times."""
        scene = self.scene_at(rev)
        if layer is None:
            return flatten(scene, square(scene.size, z, x, y), z)
        raster = small(scene.layer(layer).raster, z)
        return raster.read(square(raster.size, 0, x, y))

    def mask_tile(self, rev: int, z: int, x: int, y: int, candidate: int | None = None) -> Pixels:
        """uint8[h, w]: a square of the selection, or of another candidate for it."""
        scene = self.scene_at(rev)
        selection = scene.selection
        if selection is None or (candidate is not None and candidate >= len(selection.candidates)):
            raise Gone(f"revision {rev} has no such selection")
        mask = selection.mask if candidate is None else selection.candidates[candidate].mask
        return masks.read_mask(small(mask, z), square(mask.size, z, x, y))

    def cutout(self, rev: int, layer: int, z: int = 0) -> Pixels:
        """uint8[h, w, 4]: one layer whole, in its own pixels, halved `z` times."""
        return small(self.scene_at(rev).layer(layer).raster, z).read()

    def _answered(self, id: str, command: Command) -> Answer | None:
        """The first answer to an id. EditError where it was given to another command."""
        if id not in self._known.answers:
            return None
        digest, answer = self._known.answers[id]
        if digest != _digest(command):
            raise EditError("this id was given to another command before")
        return answer

    def _commit(self, id: str, command: Command, gesture: str, after: Scene | None, started: float) -> Answer:
        """Write what was done, and only then let it be seen."""
        before = self.scene
        notes = [] if after is None else warnings(before, command)
        self._check(command)
        row = {
            "id": id, "gesture": gesture, "command": write_command(command), "at": time.time(), "notes": notes,
        }  # fmt: skip
        if self._store is not None:
            self._store.add(row, after)
        return self._see(row, command, after, time.perf_counter() - started)

    def _check(self, command: Command) -> None:
        if isinstance(command, Undo) and not self._history.can_undo:
            raise EditError("there is nothing to undo")
        if isinstance(command, Redo) and not self._history.can_redo:
            raise EditError("there is nothing to do again")
        if isinstance(command, Restore):
            self.version(command.name)

    def _see(self, row: dict[str, Any], command: Command, after: Scene | None, seconds: float) -> Answer:
        """The part of a command that the journal tells again when the session is opened."""
        before, known = self.scene, self._known
        match command:
            case Undo():
                self._history.undo()
            case Redo():
                self._history.redo()
            case Restore():
                self._history.add(self.version(command.name), row["gesture"])
            case SaveVersion():
                known.versions[command.name] = before
            case Say():
                said = command.model_dump(mode="json", exclude={"do"})
                known.talk.append({**said, "rev": known.rev, "at": row["at"]})
            case _:
                assert after is not None
                self._history.add(after, row["gesture"])
        known.rev += 1
        known.revisions[known.rev] = self.scene
        kept = {*map(id, self._history.scenes()), *map(id, known.versions.values())}
        known.revisions = {rev: scene for rev, scene in known.revisions.items() if id(scene) in kept}
        answer = Answer(known.rev, damage_between(before, self.scene), tuple(row["notes"]), seconds)
        known.answers[row["id"]] = (_digest(command), answer)
        return answer

    def _replay(self) -> None:
        assert self._store is not None
        scenes = self._store.read_scenes([layer.raster for layer in self.scene.layers])
        for row, after in zip(self._store.rows[1:], scenes[1:], strict=True):
            self._see(row, read_command(row["command"]), after, 0.0)
        self._store.rows.clear()


def first_scene(picture: Picture) -> Scene:
    """What is there before any command: the lowest layer is the photo."""
    layers = tuple(
        Layer(
            number, sheet.name, "cut" if number else "photo", raster_of(sheet.rgba),
            (1.0, 0.0, float(sheet.at[0]), 0.0, 1.0, float(sheet.at[1])), sheet.opacity, sheet.visible,
        )
        for number, sheet in enumerate(picture.sheets)
    )  # fmt: skip
    return Scene(picture.size, layers, next_id=len(layers))


def _digest(command: Command) -> str:
    return hashlib.sha256(command.model_dump_json().encode()).hexdigest()
