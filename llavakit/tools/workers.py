"""Child processes in which tools run: they may hang, crash or fill the memory, and are replaced."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from llavakit.core.bounded import Bounded
from llavakit.core.errors import ConfigError
from llavakit.text.calls import Json, ToolError, ToolUnavailable

PROGRAM = "from llavakit.tools.child import reply_to"


class Workers:
    """Up to `at_once` processes, started when they are needed, for one tool or for all light ones."""

    def __init__(
        self,
        *,
        at_once: int = 2,
        seconds: float = 60.0,
        memory: float | None = 4.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """No call takes over `seconds`; each process may address `memory` gigabytes, with `environ` beside ours."""
        self._seconds, self._memory, self._environ, self._most = seconds, memory, environ, at_once
        self._free: list[Bounded] = []
        self._all: list[Bounded] = []
        self._changed = threading.Condition()

    def ask(self, question: Json, *, seconds: float) -> Any:
        """The value that the function gave. ToolError for what it refused, ToolUnavailable where it did not end."""
        deadline = time.monotonic() + seconds
        worker = self._take(deadline)
        try:
            outcome = worker.ask(question, seconds=max(deadline - time.monotonic(), 0.001))
        except ConfigError as error:  # its process does not start
            raise ToolUnavailable(str(error)) from None
        finally:
            with self._changed:
                if worker in self._all:
                    self._free.append(worker)
                else:
                    worker.close()
                self._changed.notify()
        if outcome.problem is not None:
            raise ToolUnavailable(outcome.problem)
        if "problem" in outcome.value:
            kind = ToolUnavailable if outcome.value["unavailable"] else ToolError
            raise kind(outcome.value["problem"])
        return outcome.value

    def close(self) -> None:
        """End the processes. Who waits for one is told that it ended."""
        with self._changed:
            for worker in self._all:
                worker.interrupt()
            for worker in self._free:
                worker.close()
            self._all, self._free = [], []

    def _take(self, deadline: float) -> Bounded:
        with self._changed:
            while not self._free and len(self._all) >= self._most:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise ToolUnavailable("busy with other calls for all its time")
            if self._free:
                return self._free.pop()
            worker = Bounded(
                PROGRAM, seconds=self._seconds, memory=self._memory, environ=self._environ,
                needs="a tool's process",
            )  # fmt: skip
            self._all.append(worker)
            return worker
