"""Calls that run side by side, by one deadline. A tool that hangs, raises or gives garbage has a result too."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from threading import Event, Thread

from llavakit.engine.fault import Boundary
from llavakit.text.calls import Call, Result
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Registry

GRACE = 0.2  # seconds for a tool that keeps its deadline by itself to say so
LOOK = 0.1  # seconds after which it is looked whether the run was stopped
LONGEST = 500  # letters of what a broken tool says


def run_calls(
    registry: Registry, desk: Desk, calls: Sequence[Call], *, seconds: float, tries: int, stop: Event
) -> Iterator[Result]:
    """Results as they come, all of them within `seconds`, or when `stop` is set.

    A tool that changes nothing is asked up to `tries` times where it was not to be had. One that hangs is left
    behind in its thread: what it gives later is not heard.
    """
    begun = time.monotonic()
    deadline = begun + seconds
    running: dict[Future[Result], Call] = {}
    for call in calls:
        future: Future[Result] = Future()
        running[future] = call
        # A daemon: a tool that hangs for ever must not keep the process from ending.
        Thread(target=_run, args=(future, registry, desk, call, deadline, tries), daemon=True).start()
    over = False
    while running and not over:
        left = deadline + GRACE - time.monotonic()
        done, _ = wait(running, timeout=min(max(left, 0), LOOK), return_when=FIRST_COMPLETED)
        for each in done:
            del running[each]
            yield each.result()
        over = not done and (left <= 0 or stop.is_set())
    for call in running.values():
        how = "was left" if stop.is_set() else f"did not answer within {seconds:.3g} s"
        error = f"{call.name} {how}; whether it did its work is not known"
        yield Result(call, error=error, seconds=time.monotonic() - begun)


def _run(
    future: "Future[Result]", registry: Registry, desk: Desk, call: Call, deadline: float, tries: int
) -> None:
    begun = time.monotonic()
    with Boundary() as own:
        tool = registry.tools.get(call.name)
        left = tries if tool is not None and tool.card.read_only else 1
        while True:
            result = registry.call(call, desk, deadline=deadline)
            left -= 1
            if not result.unavailable or left <= 0 or time.monotonic() >= deadline:
                break
        json.loads(result.text if result.error is None else "{}")  # a value that is no JSON is found here
        future.set_result(replace(result, seconds=time.monotonic() - begun))
        return
    error = f"{call.name} failed: {type(own.error).__name__}: {own.error}"[:LONGEST]
    future.set_result(Result(call, error=error, seconds=time.monotonic() - begun))
