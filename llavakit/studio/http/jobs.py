"""What generative engines are asked for waits in line: one is made at a time, any can be taken back.

A job is no part of the picture until it is done, and then one step of its history. The line is in memory: a server
that ends forgets what was not made yet.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal

from llavakit.core.errors import UserError
from llavakit.engine.fault import Boundary, report
from llavakit.studio.commands import AnyCommand
from llavakit.studio.edits.table import MAKES
from llavakit.studio.scene import EditError
from llavakit.studio.session import Session

WAITING = 16  # jobs of one picture
State = Literal["waiting", "under way", "failed"]


class _Cancelled(Exception):
    """Somebody took a job back."""


@dataclass
class Job:
    """A command on its way. `done`: 0 to 1; `trouble`: why it failed."""

    id: str
    command: AnyCommand
    state: State = "waiting"
    done: float = 0.0
    trouble: str = ""
    stop: Event = field(default_factory=Event)

    def describe(self) -> dict[str, Any]:
        """For the page."""
        command = self.command.model_dump(mode="json", exclude_defaults=True)
        words = command.get("prompt") or command.get("caption") or ""
        return {
            "id": self.id, "words": words, "state": self.state, "done": self.done, "trouble": self.trouble,
        }  # fmt: skip

    def watch(self, done: float) -> None:
        """What the engine calls."""
        if self.stop.is_set():
            raise _Cancelled
        self.done = done


class Line:
    """The jobs of all pictures, by their sessions. They run one after the other: there is one accelerator."""

    def __init__(self) -> None:
        self._jobs: dict[Session, dict[str, Job]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="studio-make")

    def add(self, session: Session, id: str, command: AnyCommand) -> None:
        """The same id again changes nothing. EditError for a command that no engine makes, and for too many."""
        if type(command) not in MAKES:
            raise EditError(
                f"only {', '.join(kind.model_fields['do'].default for kind in MAKES)} wait in line"
            )
        with self._lock:
            jobs = self._jobs.setdefault(session, {})
            if id in jobs:
                return
            if len(jobs) >= WAITING:
                raise EditError(f"{WAITING} things are waiting to be made; take one back, or wait")
            job = jobs[id] = Job(id, command)
        self._pool.submit(self._run, session, job)

    def cancel(self, session: Session, id: str) -> None:
        """Take a job back: one that waits or has failed is gone at once, one under way at its next step."""
        with self._lock:
            job = self._jobs.get(session, {}).get(id)
            if job is not None:
                job.stop.set()
                if job.state != "under way":
                    self._forget(session, job)

    def of(self, session: Session) -> list[Job]:
        """The jobs of a picture, as they came."""
        with self._lock:
            return list(self._jobs.get(session, {}).values())

    def close(self) -> None:
        """Take everything back, and wait for the engine to stop."""
        with self._lock:
            jobs = [job for each in self._jobs.values() for job in each.values()]
        for job in jobs:
            job.stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _run(self, session: Session, job: Job) -> None:
        with self._lock:
            if job.stop.is_set():
                return
            job.state = "under way"
        with Boundary() as own:
            session.apply(job.command, id=job.id, watch=job.watch)
        with self._lock:
            if own.error is None or isinstance(own.error, _Cancelled):
                self._forget(session, job)
                return
            known = isinstance(own.error, UserError)
            job.trouble = str(own.error) if known else "the engine failed; the server's log says where"
            job.state = "failed"
        if not known:
            report("making failed", own.error)

    def _forget(self, session: Session, job: Job) -> None:
        del self._jobs[session][job.id]
        if not self._jobs[session]:
            del self._jobs[session]
