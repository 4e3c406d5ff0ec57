"""Files: writing that is all or nothing (a directory appears under its name only when it is complete), and JSON."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llavakit.core.errors import CheckpointError

LFS = b"version https://git-lfs"


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` if the block ends well, and is removed if it does not.

    What was at `path` before stays intact until then. A full disk or a missing permission is one clear line.
    """
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        yield draft
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        draft.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        kept = f"; what was there before is intact: {path}" if path.exists() else ""
        raise CheckpointError(f"{path}: could not be written: {_reason(error)}{kept}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_of(path: Path) -> Path:
    """Where `path` is written before it is complete, for other processes that write into it too."""
    return path.with_name(f".{path.name}.writing")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error).removeprefix("Error while serializing: ")


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same for what is not text."""
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise CheckpointError(f"{path}: could not be written: {error.strerror or error}") from error


def check_pointer(file: Path) -> None:
    """Refuse what Git LFS leaves in place of a large file that was not fetched."""
    with file.open("rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; anything else is one clear line."""
    try:
        check_pointer(path)
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return found
