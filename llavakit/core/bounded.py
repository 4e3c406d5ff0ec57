"""A function in a process of its own, with bounds on time and memory: late, too large or broken, it is killed.

For what must not be able to stop us: functions of users, and libraries that may think for ever.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from llavakit.core.errors import ConfigError

START_SECONDS = 120.0  # until the process has read its libraries
GIGABYTE = 1 << 30
# Run in the child. Replies have a way of their own: what a function prints or reads is no part of them. The alarm
# ends a child that nobody is left to kill.
LOOP = """
import json, os, resource, signal, sys
seconds, memory, program, words = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
asked, said = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

def reply(make):
    try:
        line = json.dumps({"value": make()})
    except Exception as error:
        line = json.dumps({"problem": f"{type(error).__name__}: {error}"[:500]})
    said.write(line + "\\n")
    said.flush()

space = {"words": words}
reply(lambda: exec(compile(program, "program", "exec"), space))
for line in asked:
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    reply(lambda: space["reply_to"](json.loads(line)))
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one question: a value as JSON has them, or what went wrong."""

    value: Any = None
    problem: str | None = None  # an exception, or that it took too long or ended


class Bounded:
    """Asks a child process one question after the other. It starts at the first one, and anew after it was lost."""

    def __init__(
        self,
        program: str,
        *,
        words: tuple[str, ...] = (),
        seconds: float,
        memory: float | None = 4.0,
        environ: Mapping[str, str] | None = None,
        needs: str,
    ) -> None:
        """`program` is Python that defines `reply_to(question)`; it finds `words`, a list of texts, in place.

        A question may take `seconds`; the process may address `memory` gigabytes (None: any number), and has
        `environ` beside ours. `needs` says what it cannot run without, for the ConfigError of a program that does
        not start.
        """
        self.seconds, self.needs = seconds, needs
        size = str(resource.RLIM_INFINITY if memory is None else int(memory * GIGABYTE))
        self._environ = None if environ is None else os.environ | environ
        self._command = [sys.executable, "-c", LOOP, str(seconds), size, program, *words]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, question: Any, *, seconds: float | None = None) -> Outcome:
        """The child's reply to anything JSON can say. ConfigError if its program cannot start at all.

        `seconds`: less than the process was made for, and its start is part of them.
        """
        if self._process is None:
            begun = time.monotonic()
            self._start(START_SECONDS if seconds is None else seconds)
            seconds = None if seconds is None else max(seconds - (time.monotonic() - begun), 0.001)
        seconds = self.seconds if seconds is None else min(seconds, self.seconds)
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            return self._read(process, seconds)
        except (BrokenPipeError, EOFError):
            problem = "its process ended"
        except TimeoutError:
            problem = f"took over {seconds:.3g} s"
        self.close()
        return Outcome(problem=problem)

    def interrupt(self) -> None:
        """From another thread: kill the process, so that who waits for it is told that it ended."""
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process and what it started."""
        self.interrupt()
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # what was written for a child that is gone
            process.stdin.close()
        process.stdout.close()
        process.wait()

    def _start(self, seconds: float) -> None:
        self._process = process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env=self._environ,
        )  # fmt: skip
        try:
            problem = self._read(process, seconds).problem
        except (EOFError, TimeoutError):
            problem = "does not start"
        if problem is not None:
            self.close()
            raise ConfigError(f"{self.needs}: {problem}")

    def _read(self, process: "subprocess.Popen[str]", seconds: float) -> Outcome:
        """The next reply. TimeoutError where none comes in time, EOFError where none will."""
        assert process.stdout is not None
        if not wait([process.stdout.fileno()], seconds):
            raise TimeoutError
        line = process.stdout.readline()
        if not line.endswith("\n"):
            raise EOFError
        return Outcome(**json.loads(line))
