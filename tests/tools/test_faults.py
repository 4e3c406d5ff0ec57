"""What goes wrong in a tool costs its process: the call ends in time with one line, and the next one works."""

import threading
import time

import PIL.Image
import pytest

from llavakit.text.calls import Call
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.function import FunctionTool
from llavakit.tools.registry import Registry
from llavakit.tools.workers import Workers
from tests.tools import faulty

FUNCTIONS = (
    faulty.works,
    faulty.hangs,
    faulty.raises,
    faulty.dies,
    faulty.eats,
    faulty.rambles,
    faulty.paints,
)


@pytest.fixture(scope="module")
def registry():
    shared = Workers(at_once=1, memory=2.0)
    opened = Registry(FunctionTool(function, shared) for function in FUNCTIONS)
    yield opened
    opened.close()


@pytest.fixture
def desk(tmp_path):
    opened = Desk(Artifacts(tmp_path))
    opened.add_image(PIL.Image.new("RGB", (8, 8)))
    return opened


def ask(registry, desk, name, seconds=30.0):
    return registry.call(Call(name, "{}"), desk, deadline=time.monotonic() + seconds)


@pytest.mark.parametrize(
    ("name", "says", "unavailable"),
    [
        ("raises", "KeyError: 'a bug'", True),
        ("dies", "its process ended", True),
        ("eats", "MemoryError", True),
        ("rambles", "not JSON serializable", True),
        ("paints", "TypeError", True),
    ],
)
def test_a_fault_is_one_line_and_the_next_call_works(registry, desk, name, says, unavailable):
    result = ask(registry, desk, name)
    assert says in result.error and result.unavailable == unavailable and "\n" not in result.error
    assert ask(registry, desk, "works").value == {"number": 1}
    assert not [path for path in desk.store.folder.iterdir() if path.name.startswith(".")]


def test_a_tool_that_hangs_is_given_up_in_time(registry, desk):
    ask(registry, desk, "works")
    begun = time.monotonic()
    result = ask(registry, desk, "hangs", seconds=0.5)
    assert "took over" in result.error and time.monotonic() - begun < 5
    assert ask(registry, desk, "works").error is None


def test_who_waits_for_a_busy_tool_is_told_and_closing_ends_who_runs(desk):
    shared = Workers(at_once=1)
    registry, ended = Registry(FunctionTool(one, shared) for one in (faulty.hangs, faulty.works)), []
    assert ask(registry, desk, "works").error is None  # its process has started
    running = threading.Thread(target=lambda: ended.append(ask(registry, desk, "hangs", 60)))
    running.start()
    time.sleep(0.3)
    assert "busy" in ask(registry, desk, "hangs", seconds=0.3).error
    registry.close()
    running.join(20)
    assert [result.error for result in ended] == ["its process ended"]


def test_a_picture_of_half_a_gigabyte_is_refused_by_its_header(desk, tmp_path):
    """A PNG of 20,000 x 20,000 pixels in a few bytes."""
    import struct
    import zlib

    from llavakit.core.errors import DataError

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    with pytest.raises(DataError, match="limit"):
        desk.add_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    assert desk.pictures() == ["img_1"]
