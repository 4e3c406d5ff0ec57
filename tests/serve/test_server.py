"""What a serving process asks of Python: no long holds of the interpreter's lock."""

import gc
import sys
import time

from llavakit.serve.server import LOCK_SECONDS, stop_nobody


def collecting() -> float:
    """Seconds of processor time that a full look for garbage takes, the least of three."""
    found = []
    for _ in range(3):
        began = time.thread_time()
        gc.collect()
        found.append(time.thread_time() - began)
    return min(found)


def test_the_collector_does_not_look_through_what_stays():
    before, interval = collecting(), sys.getswitchinterval()
    try:
        stop_nobody()
        assert gc.get_freeze_count() > 100_000
        assert collecting() < before / 5
        assert sys.getswitchinterval() == LOCK_SECONDS
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval)
