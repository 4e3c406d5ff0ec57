"""All or nothing: what was there stays intact until the new is complete, also on a full disk."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llavakit.core.errors import CheckpointError
from llavakit.core.files import atomic_directory, write_text
from llavakit.model import checkpoint
from tests import tiny


@contextmanager
def full_disk(size: int = 1000) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails with a real OSError (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def listing(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def old(folder: Path) -> Path:
    path = folder / "old"
    path.mkdir()
    (path / "small").write_text("old")
    return path


def test_a_directory_appears_complete_under_its_name(tmp_path):
    path = tmp_path / "a" / "b"
    with atomic_directory(path) as draft:
        (draft / "x").write_text("1")
        assert not path.exists()
        assert draft.parent == path.parent  # a rename within one disk
    assert listing(tmp_path) == {"a/b/x": "1"}


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    path = old(tmp_path)
    with atomic_directory(path) as draft:
        (draft / "other").write_text("new")
        assert listing(path) == {"small": "old"}
    assert listing(tmp_path) == {"old/other": "new"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_the_old_directory_stays_when_the_block_raises(error, tmp_path):
    path = old(tmp_path)
    with pytest.raises(type(error)), atomic_directory(path) as draft:
        (draft / "small").write_text("new")
        raise error
    assert listing(tmp_path) == {"old/small": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_what_a_killed_process_left_is_not_in_the_way(tmp_path):
    path = old(tmp_path)
    for left in (".old.writing", ".old.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "junk").write_text("junk")
    with atomic_directory(path) as draft:
        assert list(draft.iterdir()) == []
        (draft / "small").write_text("new")
    assert listing(tmp_path) == {"old/small": "new"}


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_full_disk_is_one_line_and_the_old_content_is_intact(name, tmp_path):
    old(tmp_path)
    with pytest.raises(CheckpointError) as caught, full_disk(), atomic_directory(tmp_path / name) as draft:
        (draft / "small").write_text("new")
        (draft / "large").write_bytes(bytes(100_000))
    kept = f"; what was there before is intact: {tmp_path}/old" if name == "old" else ""
    assert str(caught.value) == f"{tmp_path / name}: could not be written: File too large{kept}"
    assert listing(tmp_path) == {"old/small": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_checkpoint_on_a_full_disk_is_one_line_and_the_old_one_still_loads(tmp_path):
    made = tiny.checkpoint()
    checkpoint.save(made, tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    with (
        pytest.raises(CheckpointError, match=r"model: could not be written: .*File too large") as caught,
        full_disk(50_000),
    ):
        checkpoint.save(made, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert checkpoint.load(tmp_path / "model").card == made.card


def test_a_text_file_on_a_full_disk_is_one_line_and_the_old_one_is_intact(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(CheckpointError, match="file: could not be written: File too large"), full_disk():
        write_text(tmp_path / "file", "x" * 100_000)
    assert listing(tmp_path) == {"file": "old"}


def test_a_file_in_the_place_of_the_parent_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(CheckpointError, match="could not be written"),
        atomic_directory(tmp_path / "file" / "a"),
    ):
        pass
    with pytest.raises(CheckpointError, match="could not be written"):
        write_text(tmp_path / "file" / "a", "x")


def test_a_text_file_is_replaced_in_one_step_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "x.json"
    for value in ("東京", "b"):
        write_text(path, json.dumps(value, ensure_ascii=False))
        assert json.loads(path.read_text(encoding="utf-8")) == value
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
