"""Every container that is opened, with its headers changed here and there: frames or one line, by every door."""

import random
from functools import partial

import numpy as np
import pytest

from llavakit.vision.frames import VideoConfig, choose_frames
from llavakit.vision.video import load_frames, probe_video
from tests.vision.clips import write_clip
from tests.vision.test_doors import mutated, outcome

CLIPS = {
    "mp4": {}, "mkv": {}, "webm": {"codec": "libvpx"}, "avi": {"codec": "mpeg4"},
    "gif": {"codec": "gif", "pixels": "rgb8"},
    "ts": {"kind": "mpegts"}, "mpg": {"codec": "mpeg1video"}, "flv": {"codec": "flv1"}, "wmv": {"codec": "wmv2"},
    "ogv": {"codec": "libvpx", "kind": "ogg"},
}  # fmt: skip
ROUNDS = 25


def seen(source) -> list[np.ndarray]:
    """A few frames of it."""
    info = probe_video(source)
    return [
        np.asarray(frame)
        for frame in load_frames(source, info, choose_frames(VideoConfig(max_frames=3), info))
    ]


@pytest.mark.parametrize("suffix", CLIPS)
def test_changed_headers_are_frames_or_one_line(suffix, tmp_path):
    original = write_clip(tmp_path / f"clip.{suffix}", 8, gop=4, **CLIPS[suffix]).read_bytes()
    chance, path = random.Random(suffix), tmp_path / f"changed.{suffix}"
    assert len(seen(original)) == 3
    for _ in range(ROUNDS):
        data = mutated(original, chance)
        path.write_bytes(data)
        found, other = outcome(partial(seen, data)), outcome(partial(seen, path))
        assert (found is None) == (other is None)
        if found is not None:
            assert all(np.array_equal(first, second) for first, second in zip(found, other, strict=True))
