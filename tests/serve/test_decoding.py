"""Decoding apart from the server: as in it, in bounded time, and whatever a decoder does, the server lives on."""

import base64
import io
import struct
import threading
import time

import numpy as np
import PIL.Image
import pytest

from llavakit.core.errors import DataError
from llavakit.data.media import plan_measured, plan_media
from llavakit.serve.decoder import Task
from llavakit.serve.decoding import Decoders, Elsewhere, Job, Stopped
from llavakit.serve.errors import ApiError
from llavakit.text.conversation import Image, Video
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.frames import SlowFast, VideoConfig
from llavakit.vision.plan import ImageConfig
from tests.serve.live import ScriptedWorker, asked, client, decoders, wait_until
from tests.serve.test_media import bomb, encoded
from tests.vision.clips import write_clip

ANYRES = ImageConfig(
    kind="anyres", size=28, grid=2, anyres=AnyresConfig(pinpoints=((56, 28), (28, 56), (56, 56)))
)
VIDEO = VideoConfig(max_frames=5, slow_fast=SlowFast(every=2))


def rle_bomb(side: int) -> bytes:
    """A small run-length bitmap of many pixels, whose decoder is written in Python and takes them one by one."""
    row = b"".join(struct.pack("BB", min(255, side - at), 0x12) for at in range(0, side, 255)) + b"\0\0"
    rows, palette = side * row + b"\0\1", bytes(4 * 16)
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 4, 2, len(rows), 0, 0, 16, 16)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def picture(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": url(data)}}


@pytest.fixture
def job() -> Job:
    return Job(decoders(), threading.Event())


@pytest.fixture
def alone():
    """One process, with little patience for pictures."""
    made = Decoders(1, 1.0)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "avif", "jpeg2000"])
@pytest.mark.parametrize("rule", [ImageConfig(size=28, grid=2), ANYRES], ids=["pad", "anyres"])
def test_pictures_are_cut_as_in_this_process(kind, rule, job):
    part = Image(encoded(kind, (90, 40)))
    here = plan_media(part, rule, None, alone=True)
    there = plan_measured(part, job.measure("image", part.source), rule, None, alone=True)
    assert there == here
    tiles = Elsewhere(there.source, there.plan, there.depth, job).tiles()
    assert tiles.dtype == here.tiles().dtype and tiles.equal(here.tiles())


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_videos_are_cut_as_in_this_process(suffix, job, tmp_path):
    data = write_clip(tmp_path / f"clip.{suffix}", 20, kind="mpegts" if suffix == "ts" else None).read_bytes()
    part = Video(data if suffix == "mp4" else data + data)
    here = plan_media(part, ImageConfig(size=56, grid=4), VIDEO, alone=True)
    there = plan_measured(
        part, job.measure("video", part.source), ImageConfig(size=56, grid=4), VIDEO, alone=True
    )
    assert there == here
    assert Elsewhere(there.source, there.plan, None, job).tiles().equal(here.tiles())


def test_what_is_broken_is_one_line(job):
    with pytest.raises(DataError, match="image of 400 bytes: not an image"):
        job.measure("image", bytes(400))
    with pytest.raises(DataError, match="not a video"):
        job.measure("video", bytes(400))
    cut = encoded("png", (90, 90))[:-200]
    media = plan_media(Image(cut), ImageConfig(size=28, grid=2), None, alone=True)
    with pytest.raises(ApiError, match="broken image"):
        Elsewhere(media.source, media.plan, None, job).tiles()
    assert job.measure("image", cut) == (90, 90)  # and the process goes on


def test_what_takes_too_long_is_ended_and_the_next_one_is_served(alone):
    data = rle_bomb(9000)
    assert len(data) < 2_000_000
    job, began = Job(alone, threading.Event()), time.monotonic()
    media = plan_media(Image(data), ImageConfig(size=28, grid=2), None, alone=True)
    with pytest.raises(ApiError, match=r"not decoded within 1 s"):
        Elsewhere(media.source, media.plan, None, job).tiles()
    alone.seconds = 20
    assert job.measure("image", encoded("png")) == (20, 16)
    assert time.monotonic() - began < 20


def test_who_leaves_frees_the_process(alone):
    alone.seconds = 60
    job = Job(alone, threading.Event())
    media = plan_media(Image(rle_bomb(4000)), ImageConfig(size=28, grid=2), None, alone=True)
    threading.Timer(0.3, job.stop.set).start()
    with pytest.raises(Stopped):
        Elsewhere(media.source, media.plan, None, job).tiles()
    assert Job(alone, threading.Event()).measure("image", encoded("png")) == (20, 16)


def test_a_process_that_dies_costs_its_picture_only(alone):
    job = Job(alone, threading.Event())
    job.measure("image", encoded("png"))
    process = alone._free.get()
    process._process.kill()
    alone._free.put(process)
    with pytest.raises(DataError, match="its decoder broke down over it"):
        job.measure("image", encoded("png"))
    assert job.measure("image", encoded("png")) == (20, 16)


def test_a_closed_pool_does_nothing_more(alone):
    alone.close()
    with pytest.raises(Stopped):
        alone.run(Task("image", "measure"), encoded("png"), threading.Event())


def test_the_pixels_of_a_request_are_counted_before_any_is_decoded(tmp_path):
    parts = [picture(bomb(300, 200))] * 3
    with client(ScriptedWorker("yes"), max_media_pixels=150_000) as found:
        answer = found.post("/v1/chat/completions", json=asked([*parts, {"type": "text", "text": "?"}]))
        assert answer.status_code == 400
        assert "together are larger than 150000 pixels" in answer.json()["error"]["message"]
    clip = base64.b64encode(write_clip(tmp_path / "clip.mp4").read_bytes()).decode()
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{clip}"}}
    with client(ScriptedWorker("yes"), max_media_pixels=3 * 96 * 64 - 1) as found:
        answer = found.post("/v1/chat/completions", json=asked([video]))
        assert "larger than 18431 pixels" in answer.json()["error"]["message"]


def test_text_does_not_wait_behind_pictures():
    """All processes are busy with slow pictures; a question without one is answered meanwhile."""
    slow = asked([picture(rle_bomb(2500)), {"type": "text", "text": "?"}])
    with client(ScriptedWorker("yes")) as found:
        found.post("/v1/chat/completions", json=asked([picture(encoded("png"))]))  # both sides are warm
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(found.post("/v1/chat/completions", json=slow).status_code)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: decoders()._free.empty())
        answer = found.post("/v1/chat/completions", json=asked("hi"))
        assert answer.json()["choices"][0]["message"]["content"] == "yes"
        assert statuses == []  # every picture is still at work
        for thread in threads:
            thread.join()
    assert statuses == [200] * 4


def test_pixels_come_back_by_size_not_by_trust(job):
    """A long row, and a picture of one pixel."""
    for size in ((1, 1), (5000, 1)):
        out = io.BytesIO()
        PIL.Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(out, "PNG")
        assert job.measure("image", out.getvalue()) == size
