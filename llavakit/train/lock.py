"""One run at a time in a run directory: a lock that names the host and the process that holds it.

The kernel gives a lock back when its process ends, however it ends. Whether it knows of a process on another host
depends on the file system, so the holder also gives a sign of life: a lock of another host that stays silent is
taken over.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TextIO

from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.train.ranks import Ranks

NAME = ".llavakit.lock"
BEAT = 5.0  # seconds between signs of life
SILENT = 45.0  # without one for so long a holder on another host is gone
LONG_AGO = 3600.0  # no need to wait: no two clocks are that far apart


@contextmanager
def hold_directory(out: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other runs out of `out`. Every rank calls it, the first one holds the lock; all of them are refused."""
    with ExitStack() as held:
        refusal: ConfigError | None = None
        if ranks.is_first:
            try:
                held.enter_context(_locked(out))
            except ConfigError as error:
                refusal = error
        if ranks.any(refusal is not None):
            raise refusal or ConfigError(f"{out} cannot be used; the first rank says why")
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = _acquire(out / NAME)
    except OSError as error:
        raise ConfigError(f"{out} cannot be a run directory: {error.strerror}") from None
    ended = Event()
    Thread(target=_show_life, args=(out / NAME, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        (out / NAME).unlink(missing_ok=True)
        file.close()
        if is_new:
            with suppress(OSError):  # there is something in it now
                out.rmdir()


def _acquire(path: Path) -> TextIO:
    """The open lock file, locked and with our name in it."""
    while True:
        file = path.open("a+")
        kernel_knows = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise _in_use(path) from None
        except OSError:  # a file system without locks
            kernel_knows = False
        # Whoever held it may remove the file after we opened it; then ours is nobody's.
        with suppress(FileNotFoundError):
            found = _read(path)
            if found and (found.get("host") != socket.gethostname() or not kernel_knows):
                _await_silence(path)
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()
    if found:
        say(f"{path.parent}: taken over from {_holder(path)}, which has ended")
    file.truncate(0)
    json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%F %T")}, file)
    file.flush()
    return file


def _await_silence(path: Path) -> None:
    """Return when the lock's holder is taken to be gone; a sign of life is a ConfigError."""
    seen = path.stat().st_mtime
    if time.time() - seen > LONG_AGO:
        return
    say(f"{path.parent} was in use by {_holder(path)}; looking for a sign of life of it for {SILENT:.0f} s")
    until = time.monotonic() + SILENT
    while time.monotonic() < until:
        time.sleep(min(BEAT, SILENT) / 5)
        if path.stat().st_mtime != seen:
            raise _in_use(path)


def _show_life(path: Path, ended: Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):  # somebody removed it
            os.utime(path)


def _read(path: Path) -> dict[str, object]:
    """What a lock file says; nothing if it is empty or half written."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}


def _in_use(path: Path) -> ConfigError:
    return ConfigError(f"{path.parent} is in use by {_holder(path)}; wait for it, or choose another out=")


def _holder(path: Path) -> str:
    found = _read(path)
    if not found:
        return "another process"
    return f"process {found.get('process')} on {found.get('host')} (since {found.get('since')})"
