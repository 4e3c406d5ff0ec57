"""Whether two mathematical expressions are the same: `math-verify`, in a process of its own that may be killed."""

import subprocess
import sys
from collections.abc import Sequence
from json import dumps
from multiprocessing.connection import wait
from typing import IO

from llavakit.core.errors import ConfigError

SECONDS = 10.0  # of one comparison; expressions can be made that simplify for ever
START_SECONDS = 120.0  # until the process has read its libraries
PROGRAM = """
import json, sys
from math_verify import parse, verify
print("ready", flush=True)
for line in sys.stdin:
    said, truth = json.loads(line)
    print(int(bool(verify(parse(f"${truth}$"), parse(said)))), flush=True)
"""


def compare(pairs: Sequence[tuple[str, str]], *, seconds: float = SECONDS) -> list[float | None]:
    """For each (answer, reference): 1.0 if they are mathematically equal, 0.0 if not, None if it took too long.

    Needs the extra `eval`.
    """
    found: list[float | None] = []
    while len(found) < len(pairs):
        found += _compare_until_lost(pairs[len(found) :], seconds)
    return found


def _compare_until_lost(pairs: Sequence[tuple[str, str]], seconds: float) -> list[float | None]:
    """All pairs, or those up to the first that took too long or broke the process, which is the last then."""
    words = [sys.executable, "-c", PROGRAM]
    found: list[float | None] = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if _line(process.stdout, START_SECONDS) != "ready":
                raise ConfigError("comparing mathematics needs math-verify: pip install 'llavakit[eval]'")
            for pair in pairs:
                process.stdin.write(dumps(pair) + "\n")
                process.stdin.flush()
                said = _line(process.stdout, seconds)
                found.append(float(said) if said else None)
                if not said:
                    break
        finally:
            process.kill()
    return found


def _line(stream: IO[str], seconds: float) -> str:
    """The next line, or nothing where none comes in time."""
    return stream.readline().strip() if wait([stream.fileno()], seconds) else ""
