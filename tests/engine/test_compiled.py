"""The library of the C kernels on the disk: compiled once, checked before it is loaded."""

import ctypes
import hashlib

import pytest

from llavakit.core.errors import ConfigError
from llavakit.engine import compiled, native

SOURCE = "int answer(void) { return 42; }\n"
FLAGS = ("-shared", "-fPIC")
pytestmark = pytest.mark.compiler


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """One source file, on a machine that never compiled anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.c").write_text('#include "answer.h"\n' + SOURCE)
    (folder / "answer.h").write_text("int answer(void);\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "llavakit"


def test_the_kernels_are_sources_and_headers_only():
    assert {file.suffix for file in native.KERNELS.iterdir()} == {".c", ".h"}


def test_a_folder_that_nothing_may_be_loaded_from_is_named(sources, monkeypatch):
    """As on a mount with noexec."""

    def refuse(name):
        raise OSError(f"{name}: failed to map segment from shared object")

    monkeypatch.setattr(compiled.ctypes, "CDLL", refuse)
    with pytest.raises(
        ConfigError, match=r"^a cache folder .* not mounted noexec: .*failed to map segment.*$"
    ) as raised:
        compiled.load(sources, FLAGS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "writable", "not a library"])
def test_a_damaged_or_planted_library_is_compiled_again(sources, folder, damage):
    compiled.load(sources, FLAGS)
    (made,) = folder.glob("native-*.so")
    whole = made.read_bytes()
    broken = {"empty": b"", "short": whole[:5000], "changed": whole[:-1] + b"x"}
    if damage == "writable":
        made.chmod(0o777)
    elif damage == "not a library":  # by a name that fits its bytes
        planted = made.with_name(f"{made.stem[:23]}-{hashlib.sha256(b'no').hexdigest()[:32]}.so")
        made.unlink()
        planted.write_bytes(b"no")
    else:
        made.unlink()  # as a new file: the old one is still mapped here
        made.write_bytes(broken[damage])
    assert compiled.load(sources, FLAGS).answer() == 42
    assert made.read_bytes() == whole and made.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


def test_what_was_compiled_once_needs_no_compiler(sources, monkeypatch):
    assert isinstance(compiled.load(sources, FLAGS), ctypes.CDLL)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert compiled.load(sources, FLAGS).answer() == 42


def test_a_change_of_any_source_header_or_flag_is_compiled_anew(sources, folder):
    compiled.load(sources, FLAGS)
    for file in sorted(sources.iterdir()):
        with file.open("a") as out:
            out.write("/* changed */\n")
        compiled.load(sources, FLAGS)
    compiled.load(sources, (*FLAGS, "-O1"))
    assert len(list(folder.glob("native-*.so"))) == 4
