"""A peer in a process of its own interpreter: one JSON line in, one JSON line out. It loads once and then waits."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent


class Peer:
    """Starts a script of this folder; `facts` is the first line it says, once it is ready."""

    def __init__(self, python: Path, script: str, *words: str) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(HERE / "site"),
            "OMP_NUM_THREADS": str(os.cpu_count()),
            "HF_HUB_OFFLINE": "1",
        }
        self._log = (Path(words[-1]) / f"{script}.log").open("w+")
        self._child = subprocess.Popen(
            [str(python), str(HERE / script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.facts = self._answer()

    def ask(self, **work: Any) -> dict[str, Any]:
        """The answer to one piece of work."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(work) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self._child.args[1]} ended:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        self._log.close()
