"""Pictures and long texts that calls speak of by id: files in one folder, with an end of their time.

An id is 80 random bits: who was not given it cannot guess it. There is no index in memory, so several processes
(or one that begins anew) can share a folder.
"""

import base64
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import PIL.Image

from llavakit.core.files import write_text
from llavakit.text.calls import ToolError, ToolUnavailable
from llavakit.vision.image import Source, image_size, load_image, redraw
from llavakit.vision.layout import Size

ID = re.compile(r"[a-z2-7]{16}")
DAY = 86400.0
SWEEP_SECONDS = 60.0


@dataclass(frozen=True)
class Origin:
    """Where a picture was cut from: its pixel (x, y) is (left + x / scale, top + y / scale) of `picture`, an id."""

    picture: str
    left: float
    top: float
    scale: float


@dataclass(frozen=True)
class Artifact:
    """A PNG or a UTF-8 text."""

    id: str
    kind: Literal["image", "text"]
    path: Path
    expires: float  # seconds since 1970
    made_by: str = ""  # the tool; empty: it was given
    size: Size | None = None
    origin: Origin | None = None


class Artifacts:
    """A folder of artifacts, for this user's eyes only."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        seconds: float = DAY,
        most_bytes: int = 4 * 2**30,
        redraw: Callable[[Source], bytes] = redraw,
    ) -> None:
        """Each lives `seconds`, and together they take `most_bytes`. Without `folder`, a new temporary one.

        `redraw` makes a PNG of whatever is brought (a server has it done in another process).
        """
        self.folder = Path(tempfile.mkdtemp(prefix="llavakit-")) if folder is None else folder
        self.seconds, self.most_bytes, self._redraw = seconds, most_bytes, redraw
        self._swept = 0.0
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add_image(self, source: Source, *, made_by: str = "", origin: Origin | None = None) -> Artifact:
        """Keep a picture, upright and without its metadata. DataError for what is none."""
        drawn = self._redraw(source)
        return self._add("image", drawn, made_by, image_size(drawn), origin)

    def add_text(self, text: str, *, made_by: str = "") -> Artifact:
        """Keep a text."""
        return self._add("text", text.encode("utf-8", "backslashreplace"), made_by, None, None)

    def find(self, name: str) -> Artifact:
        """The artifact of this id. ToolError where there is none, or where its time is over."""
        if not ID.fullmatch(name):
            raise ToolError(f"{name[:60]!r} is not the id of a picture or text")
        try:
            said = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            raise ToolError(f"{name}: there is no such picture or text, or its time is over") from None
        origin = Origin(**said.pop("origin")) if said["origin"] else None
        size = tuple(said.pop("size")) if said["size"] else None
        found = Artifact(name, **said | {"path": self.folder / said["path"], "size": size, "origin": origin})
        if found.expires < time.time():
            self._remove(found)
            raise ToolError(f"{name}: its time is over")
        return found

    def sweep(self) -> int:
        """Remove what is over; the bytes that are left."""
        left = 0
        for file in self.folder.glob("*.json"):
            try:
                left += self.find(file.stem).path.stat().st_size
            except (ToolError, OSError):  # over, or another process was faster
                continue
        return left

    def _add(
        self,
        kind: Literal["image", "text"],
        data: bytes,
        made_by: str,
        size: Size | None,
        origin: Origin | None,
    ) -> Artifact:
        if len(data) + self._used() > self.most_bytes:
            raise ToolError(f"no room for more pictures and texts: they may take {self.most_bytes} bytes")
        name = base64.b32encode(secrets.token_bytes(10)).decode().lower()
        path = self.folder / f"{name}.{'png' if kind == 'image' else 'txt'}"
        made = Artifact(name, kind, path, time.time() + self.seconds, made_by, size, origin)
        said = asdict(made) | {"path": path.name}
        said.pop("id")
        # Bytes first: what has a description is whole.
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise ToolUnavailable(f"{path}: cannot be written: {error.strerror}") from None
        write_text(path.with_suffix(".json"), json.dumps(said))
        return made

    def _used(self) -> int:
        """The bytes of all files; what is over is removed once a minute, and before anything is refused for it."""
        used = sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.is_file())
        if time.monotonic() < self._swept + SWEEP_SECONDS and used < self.most_bytes / 2:
            return used
        self._swept = time.monotonic()
        return self.sweep()

    def _remove(self, artifact: Artifact) -> None:
        artifact.path.unlink(missing_ok=True)
        artifact.path.with_suffix(".json").unlink(missing_ok=True)


def open_image(artifact: Artifact) -> PIL.Image.Image:
    """Its pixels, RGB."""
    if artifact.kind != "image":
        raise ToolError("that is a text, not a picture")
    return load_image(artifact.path)
