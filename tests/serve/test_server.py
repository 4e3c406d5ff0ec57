"""What a serving process asks of Python: no long holds of the interpreter's lock."""

import gc
import sys
import time

import pytest
import uvicorn

from llavakit.serve.listener import Server, app_config
from llavakit.serve.pauses import LOCK_SECONDS, shorten_pauses


def collecting() -> float:
    """Seconds of processor time that a full look for garbage takes, the least of three."""
    found = []
    for _ in range(3):
        began = time.thread_time()
        gc.collect()
        found.append(time.thread_time() - began)
    return min(found)


@pytest.fixture
def afterwards():
    """This process goes on with other tests as before."""
    interval = sys.getswitchinterval()
    yield
    gc.unfreeze()
    sys.setswitchinterval(interval)


def test_the_collector_does_not_look_through_what_stays(afterwards):
    before = collecting()
    shorten_pauses()
    assert gc.get_freeze_count() > 100_000
    assert collecting() < before / 5
    assert sys.getswitchinterval() == LOCK_SECONDS


def test_whatever_is_served_begins_with_short_pauses(afterwards, monkeypatch):
    """The model, the editor, collections and tools all run in a Server."""
    counts = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: counts.append(gc.get_freeze_count()))
    Server(app_config(lambda: None)).run([])
    assert counts[0] > 100_000
