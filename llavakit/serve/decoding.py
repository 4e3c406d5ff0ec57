"""Decoding apart from the server: a few processes that can be stopped, and media that are cut by them.

Pillow and FFmpeg let go of the interpreter's lock in most of their decoders, not in all (run-length bitmaps, JPEG
2000), and nothing in a thread can be stopped. A process can, whatever it is at.
"""

import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Event

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.data.media import Clip, Measured, Media
from llavakit.serve.decoder import DONE, MEASURED, TASK, Task, write_message
from llavakit.serve.errors import invalid_media
from llavakit.vision.image import Source, redraw
from llavakit.vision.kinds import Sort

ROOT = Path(__file__).parents[2]
START = 60.0  # seconds that a process may take to begin
TICK = 0.05  # seconds between two looks at whether anybody still waits
CHUNK = 2**20


class Stopped(Exception):
    """Nobody waits for it any more."""


class Decoders:
    """So many processes, started when they are first needed. Close it in the end."""

    def __init__(self, count: int, seconds: float) -> None:
        """A picture or video that takes one of them longer than `seconds` is refused, and its process ended."""
        self.seconds = seconds
        self._free: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(count):
            self._free.put(None)
        self._closed = Event()

    def run(self, task: Task, data: bytes, stop: Event) -> bytes:
        """What a process makes of it, as soon as one is free. Raises DataError, or Stopped once `stop` is set."""
        process, limit, whole = self._take(stop), time.monotonic() + START, False

        def check() -> None:
            if stop.is_set() or self._closed.is_set():
                raise Stopped
            if time.monotonic() > limit:
                raise DataError(f"{task.sort} of {len(data)} bytes: not decoded within {self.seconds:g} s")

        try:
            if process is None:
                process = _Process()
                process.wait(check)
            limit = time.monotonic() + self.seconds
            kind, result = process.ask(TASK.dump_json(task), data, check)
            whole = True
        except (OSError, EOFError):
            raise DataError(f"{task.sort} of {len(data)} bytes: its decoder broke down over it") from None
        finally:
            if process is not None and not whole:
                process.end()
            self._free.put(process if whole else None)
        if kind != DONE:
            raise DataError(result.decode())
        return result

    def close(self) -> None:
        """End all processes, and what they are at."""
        self._closed.set()
        with suppress(Empty):
            while True:
                process = self._free.get_nowait()
                if process is not None:
                    process.end()

    def _take(self, stop: Event) -> "_Process | None":
        while not stop.is_set() and not self._closed.is_set():
            with suppress(Empty):
                return self._free.get(timeout=TICK)
        raise Stopped


@dataclass(frozen=True)
class Job:
    """The media of one request, which are measured and cut until it is stopped."""

    decoders: Decoders
    stop: Event

    def measure(self, sort: Sort, data: bytes) -> Measured:
        """A picture's size, or what is in a video."""
        return MEASURED.validate_json(self.decoders.run(Task(sort, "measure"), data, self.stop))

    def redraw(self, source: Source) -> bytes:
        """As vision/image.py; what was decoded here already (a tool's drawing) is drawn here."""
        if isinstance(source, PIL.Image.Image):
            return redraw(source)
        data = source.read_bytes() if isinstance(source, Path) else source
        return self.decoders.run(Task("image", "redraw"), data, self.stop)

    def cut(self, media: Media) -> Tensor:
        """uint8[N, H, W, 3]: the tiles of media whose source is bytes, or a file of ours."""
        clip, task = media.source, Task("image", "cut", media.plan, media.depth)
        if isinstance(clip, Clip):
            task = Task("video", "cut", media.plan, media.depth, clip.info, clip.frames)
        data = clip.source if isinstance(clip, Clip) else clip
        if isinstance(data, Path):
            data = data.read_bytes()
        assert isinstance(data, bytes)
        width, height = media.plan.tile
        pixels = np.frombuffer(bytearray(self.decoders.run(task, data, self.stop)), np.uint8)
        return torch.from_numpy(pixels.reshape(media.plan.tiles, height, width, 3))


@dataclass(frozen=True)
class Elsewhere(Media):
    """Media that a job cuts."""

    job: Job | None = None
    param: str = ""  # where it stands in the request

    def tiles(self) -> Tensor:
        """As `Media`, from another process. What cannot be cut is an ApiError that says which it is."""
        assert self.job is not None
        try:
            return self.job.cut(self)
        except DataError as error:
            raise invalid_media(self.param, error) from None


class _Process:
    """One decoder, which does one task at a time."""

    def __init__(self) -> None:
        path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
        # One thread each: the arrays are small, and a library's threads would count as memory.
        environ = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llavakit.serve.decoder"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, start_new_session=True, bufsize=0,
        )  # fmt: skip

    def wait(self, check: Callable[[], None]) -> None:
        """Until it is ready."""
        self._read(1, check)

    def ask(self, task: bytes, data: bytes, check: Callable[[], None]) -> tuple[bytes, bytes]:
        """(DONE or REFUSED, what it gave). `check` is called while it is waited for, and may raise."""
        tasks = self._process.stdin
        assert tasks is not None
        with os.fdopen(os.dup(tasks.fileno()), "wb") as file:
            write_message(file, b"!", [task, data])
        kind = self._read(1, check)
        (size,) = struct.unpack(">Q", self._read(8, check))
        return kind, self._read(size, check)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self, size: int, check: Callable[[], None]) -> bytes:
        results = self._process.stdout
        assert results is not None
        found = bytearray()
        while len(found) < size:
            while not select.select([results], [], [], TICK)[0]:
                check()
            part = os.read(results.fileno(), min(size - len(found), CHUNK))
            if not part:
                raise EOFError
            found += part
        return bytes(found)
