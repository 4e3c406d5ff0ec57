"""One budget of memory for the whole server: what is set aside when it starts, and what requests hold.

Model, keys and values, pictures that were seen and grammars have bounds of their own and are set aside. The rest is
for requests: a body counts while it arrives, then what is made of it. A request that finds no room is told to come
back; one that could never have room is refused for good.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from llavakit.core.errors import ConfigError
from llavakit.core.memory import resident_bytes, return_freed_memory
from llavakit.engine.engine import FEATURE_BYTES, Engine
from llavakit.engine.grammar import GRAMMAR_BYTES
from llavakit.serve.errors import ApiError, ClientGone

MIB = 2**20
OF_THE_MACHINE = 0.8  # of its memory, if nobody says how much
FOR_REQUESTS = 4096 * MIB  # at most, if nobody says how much
AT_LEAST = 64 * MIB  # for requests: a server with less could answer nobody
GRAMMARS = 2 * GRAMMAR_BYTES  # those that are kept, and those that answers are at
DECODER = 128 * MIB  # a process that decodes, beside what its picture takes
STEP = 512 * MIB  # a step's activations and whatever is small, beside a fiftieth of the model
TRIM = 64 * MIB  # so much given up is worth a look at what can go back to the system
CGROUP = Path("/sys/fs/cgroup/memory.max")  # of the container, if there is one


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are set aside for, and those that are left for requests."""

    fixed: Mapping[str, int]
    requests: int

    @property
    def total(self) -> int:
        """What the server and its decoders may hold at their peak."""
        return sum(self.fixed.values()) + self.requests

    def __str__(self) -> str:
        parts = ", ".join(
            f"{_gb(size)} {what}" for what, size in (*self.fixed.items(), ("requests", self.requests))
        )
        return f"memory: at most {_gb(self.total)} GB ({parts})"


def plan_memory(engine: Engine, memory_gb: float | None, *, decoders: int) -> MemoryPlan:
    """Set memory aside for what `engine` keeps and for `decoders` processes; the model is there by now.

    On CUDA keys, values and pictures are on the card.
    """
    now, stats = resident_bytes(), engine.stats()
    fixed = {"model and libraries": now, "a step": STEP + now // 50, "grammars": GRAMMARS}
    fixed |= {"decoders": decoders * DECODER}
    if engine.model.device.type == "cpu":
        fixed |= {"keys and values": stats.kv_budget * stats.kv_token_bytes, "pictures seen": FEATURE_BYTES}
    asked = _machine_bytes() * OF_THE_MACHINE if memory_gb is None else memory_gb * 1e9
    left = int(asked) - sum(fixed.values())
    if left < AT_LEAST:
        parts = ", ".join(f"{_gb(size)} {what}" for what, size in fixed.items())
        raise ConfigError(
            f"memory_gb: {asked / 1e9:.1f} leave nothing for requests ({parts}); raise it, or lower --kv-gb"
        )
    return MemoryPlan(fixed, left if memory_gb is not None else min(left, FOR_REQUESTS))


class MemoryBudget:
    """Bytes that all requests together may hold. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = self.peak = 0
        self._freed = 0  # since memory was last given back to the system
        self._lock = Lock()

    def move(self, more: int, mine: int) -> None:
        """Take `more` bytes (fewer than 0: give them back); the request would then hold `mine`."""
        with self._lock:
            if more > 0 and self.taken + more > self.limit:
                raise _no_room(mine, self.limit)
            self.taken += more
            self.peak = max(self.peak, self.taken)
            self._freed += max(-more, 0)
            trim = self._freed >= TRIM
            if trim:
                self._freed = 0
        if trim:  # beside: it takes a while, and this may be the event loop
            Thread(target=return_freed_memory, name="llavakit-trim", daemon=True).start()


class MemoryShare:
    """What one request holds, by what it is for. Closed in the end; then nothing can be held any more."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held: dict[str, int] = {}
        self._closed = False
        self._lock = Lock()

    def hold(self, what: str, size: int) -> None:
        """From now on so many bytes as `what`, whatever it was before. Raises ApiError where there is no room."""
        with self._lock:
            if self._closed:
                raise ClientGone
            more = size - self._held.get(what, 0)
            self._budget.move(more, sum(self._held.values()) + more)
            self._held[what] = size

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self._closed = True
            held, self._held = sum(self._held.values()), {}
        self._budget.move(-held, 0)


def _no_room(mine: int, limit: int) -> ApiError:
    if mine > limit:
        return ApiError(
            f"the request takes {mine // MIB} MiB of memory; this server has {limit // MIB} MiB for all",
            status=413, code="too_large",
        )  # fmt: skip
    return ApiError(
        "the memory for requests is in use; try again later",
        status=429, code="memory_full", headers={"Retry-After": "2"},
    )  # fmt: skip


def _machine_bytes() -> int:
    """The memory of this machine, or of the container that we are in."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        said = CGROUP.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(said)) if said.isdigit() else machine


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
