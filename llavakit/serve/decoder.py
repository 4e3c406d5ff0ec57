"""A process that decodes strangers' pictures and videos for the server: `python -m llavakit.serve.decoder`.

It reads tasks from its input and writes what came of them to its output until the input ends. What a decoder does
to it (a crash, an endless loop, gigabytes) the server only sees as a picture that could not be decoded. Nothing is
ever unpickled: tasks are JSON, pixels are bytes.
"""

import os
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from pydantic import TypeAdapter

from llavakit.core.errors import UserError
from llavakit.vision.frames import VideoInfo
from llavakit.vision.image import cut_tiles, image_size, load_image, redraw
from llavakit.vision.kinds import Sort
from llavakit.vision.layout import Plan, Size
from llavakit.vision.video import map_frames, probe_video

MAX_MEMORY = 6 * 2**30  # bytes of address space
PATIENCE = 5  # nice: answers come before pictures
DONE, REFUSED = b"+", b"-"


@dataclass(frozen=True)
class Task:
    """Measure a picture or a video, redraw a picture as a PNG, or cut the tiles of a plan.

    `info`, `frames`: for a video's.
    """

    sort: Sort
    do: Literal["measure", "redraw", "cut"]
    plan: Plan | None = None
    bits: int | None = None
    info: VideoInfo | None = None
    frames: tuple[int, ...] = ()


TASK, MEASURED = TypeAdapter(Task), TypeAdapter[Size | VideoInfo](Size | VideoInfo)


def carry_out(task: Task, data: bytes) -> bytes:
    """JSON of what was measured, a PNG, or the tiles' bytes, uint8[N, H, W, 3]."""
    if task.do == "measure":
        return MEASURED.dump_json(image_size(data) if task.sort == "image" else probe_video(data))
    if task.do == "redraw":
        return redraw(data)
    assert task.plan is not None
    plan = task.plan
    if task.info is None:
        return cut_tiles(load_image(data, bits=task.bits), plan).tobytes()
    frames = map_frames(data, task.info, task.frames, lambda frame: cut_tiles(frame, plan), bits=task.bits)
    return np.concatenate(frames).tobytes()


def write_message(file: BinaryIO, kind: bytes, parts: Sequence[bytes]) -> None:
    """One letter, and each part with its length in front."""
    file.write(kind)
    for part in parts:
        file.write(struct.pack(">Q", len(part)))
        file.write(part)
    file.flush()


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it, after the answers that are running
    os.nice(PATIENCE)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no result
    write_message(results, DONE, [])  # ready
    while tasks.read(1):
        task, data = (tasks.read(*struct.unpack(">Q", tasks.read(8))) for _ in range(2))
        try:
            write_message(results, DONE, [carry_out(TASK.validate_json(task), data)])
        except UserError as error:
            write_message(results, REFUSED, [str(error).encode("utf-8", "replace")])
        except MemoryError:
            write_message(results, REFUSED, [b"needs more memory than a picture or video may"])


if __name__ == "__main__":
    main()
