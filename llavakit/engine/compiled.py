"""The shared library of the C kernels: compiled when first asked for, kept in the user's cache folder, and checked
before it is loaded.

A library is code that runs here, so it comes from a folder and a file that nobody else may write, and its name ends
in the checksum of its bytes: what was cut short or damaged on the disk is compiled again, not loaded.
Every error is a ConfigError that says what the machine needs, in words that follow "native kernels need".
"""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llavakit.core.errors import ConfigError

COMPILE_SECONDS = 120
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def load(sources: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """The library of all C files in a folder, compiled once per version of files and flags."""
    digest = hashlib.sha256(" ".join(flags).encode())
    for source in sorted(sources.glob("*.[ch]")):
        digest.update(source.name.encode() + source.read_bytes())
    name = f"native-{digest.hexdigest()[:16]}"
    folder = _cache_folder()
    for made in sorted(folder.glob(f"{name}-*.so")):
        if _is_whole(made):
            try:
                return ctypes.CDLL(str(made))
            except OSError:  # made for another system that shares the folder: compiled again here
                break
    made = _compile(sources, flags, folder, name)
    try:
        return ctypes.CDLL(str(made))
    except OSError as error:
        raise ConfigError(
            f"a cache folder (XDG_CACHE_HOME) that programs may be loaded from, not mounted noexec: {error}"
        ) from None


def _cache_folder() -> Path:
    """The folder, made if need be; it is the user's own, and nobody else may write it."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llavakit"
    except RuntimeError:  # no HOME, and no such user
        raise ConfigError("a cache folder: this user has no home, so set XDG_CACHE_HOME") from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"a cache folder (XDG_CACHE_HOME) that can be written: {error}") from None
    if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
        raise ConfigError(f"a cache folder that is yours and that nobody else may write: chmod 700 {folder}")
    return folder


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & OTHERS_MAY_WRITE


def _is_whole(made: Path) -> bool:
    """Whether a library is a file of ours with the bytes that its name says."""
    try:
        return _is_ours(made.lstat()) and made.stem.endswith(f"-{_checksum(made)}")
    except OSError:
        return False


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def _compile(sources: Path, flags: Sequence[str], folder: Path, name: str) -> Path:
    """All sources in one call of the compiler; where the library lies."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ConfigError("a C compiler (gcc or cc) on the PATH")
    try:
        with tempfile.TemporaryDirectory(dir=folder) as room:
            made = Path(room) / "native.so"
            done = subprocess.run(
                [compiler, *flags, *map(str, sorted(sources.glob("*.c"))), "-o", str(made), "-lm"],
                capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False,
            )  # fmt: skip
            if done.returncode:
                first = next(iter(done.stderr.splitlines()), "no message")
                raise ConfigError(f"a C compiler that can compile {sources}; {compiler} says: {first}")
            made.chmod(0o700)
            target = folder / f"{name}-{_checksum(made)}.so"
            made.replace(target)  # whole or not at all: another process may be looking for it
            return target
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"a C compiler that is done in {COMPILE_SECONDS} s, which {compiler} was not"
        ) from None
    except OSError as error:
        raise ConfigError(f"a cache folder (XDG_CACHE_HOME) that can be written: {error}") from None
