"""A file is read once for its digest, and again whenever it may have changed."""

import os
import time
from pathlib import Path

import pytest

from llavakit.data.contents import Contents
from llavakit.data.media import Clip, Media
from llavakit.vision.frames import VideoInfo
from llavakit.vision.plan import plan_image
from tests import tiny

PLAN = plan_image(tiny.IMAGE, (40, 30))
INFO = VideoInfo((40, 30), (0.0, 0.5), 1.0)


@pytest.fixture
def reads(monkeypatch) -> list[Media]:
    """Every reading of a content."""
    seen, content = [], Media.content
    monkeypatch.setattr(Media, "content", lambda self: (seen.append(self), content(self))[1])
    return seen


def aged(path: Path, seconds: float = 60) -> Path:
    """As if it had been written a while ago."""
    then = time.time() - seconds
    for each in (path, *(path.iterdir() if path.is_dir() else ())):
        os.utime(each, (then, then))
    return path


def picture(path: Path, seed: int = 0) -> Media:
    return Media(aged(tiny.picture(path, seed=seed)), PLAN)


def test_a_file_is_read_once_by_all_that_come_after(tmp_path, reads):
    item = picture(tmp_path / "a.png")
    first = Contents(tmp_path / "notes")
    assert [first.of(item), first.of(item)] == [Media(item.source, PLAN).content()] * 2
    first.save()
    known = len(reads)
    assert Contents(tmp_path / "notes").of(item) == first.of(item)
    assert len(reads) == known == 2  # one of them the test's own


def test_another_folder_to_stand_in_changes_nothing(tmp_path, reads, monkeypatch):
    item = picture(tmp_path / "a.png")
    first = Contents(tmp_path / "notes")
    first.of(item)
    monkeypatch.chdir(tmp_path)
    assert first.of(Media(Path("a.png"), PLAN)) == first.of(item)
    (tmp_path / "other").mkdir()
    picture(tmp_path / "other" / "a.png", seed=5)
    monkeypatch.chdir(tmp_path / "other")
    assert first.of(Media(Path("a.png"), PLAN)) != first.of(item)
    assert len(reads) == 2


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changed_is_read_again(change, tmp_path):
    item = picture(tmp_path / "a.png")
    first = Contents(tmp_path / "notes")
    before = first.of(item)
    if change == "size":
        item.source.write_bytes(item.source.read_bytes() + b"\0")
        aged(item.source)
    else:
        aged(tiny.picture(item.source, seed=1), seconds=30)
    assert first.of(item) != before
    assert first.of(item) == item.content()


def test_a_file_that_was_just_written_is_not_trusted(tmp_path, reads):
    item = Media(tiny.picture(tmp_path / "a.png"), PLAN)
    first = Contents(tmp_path / "notes")
    first.of(item)
    first.of(item)
    assert len(reads) == 2
    first.save()
    assert not (tmp_path / "notes").exists()


def test_a_note_that_was_half_written_is_no_note(tmp_path, reads):
    items = [picture(tmp_path / f"{n}.png", seed=n) for n in range(2)]
    first = Contents(tmp_path / "notes")
    wanted = [first.of(item) for item in items]
    first.save()
    (notes,) = (tmp_path / "notes").iterdir()
    notes.write_text(notes.read_text()[:-5])
    assert [Contents(tmp_path / "notes").of(item) for item in items] == wanted
    assert len(reads) == 3  # the whole note was good


def test_frames_of_a_folder_and_clips_are_told_apart(tmp_path, reads):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(2):
        tiny.picture(folder / f"{number}.png", seed=number)
    aged(folder)
    both, one = (Media(Clip(folder, INFO, frames), PLAN) for frames in ((0, 1), (0,)))
    first = Contents(tmp_path / "notes")
    assert first.of(both) != first.of(one) == first.of(one)
    assert len(reads) == 2
    before = first.of(both)
    tiny.picture(folder / "1.png", seed=9)
    aged(folder, seconds=30)
    assert first.of(both) != before


def test_bytes_are_named_by_what_they_are(tmp_path):
    item = picture(tmp_path / "a.png")
    first = Contents(tmp_path / "notes")
    assert first.of(Media(item.source.read_bytes(), PLAN)) == first.of(item)
