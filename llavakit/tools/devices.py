"""Where a tool with weights of the hub runs: the setting `device`, as bounds and environment of its process."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llavakit.core.errors import ConfigError

ADDRESS_SPACE = 16.0  # gigabytes that a process with a model may map; what it uses is far less
DRIVER = Path("/dev/nvidiactl")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Room:
    """For one process: gigabytes that it may map (None: any), and what its environment has beside ours."""

    memory: float | None = ADDRESS_SPACE
    environ: Mapping[str, str] = field(default_factory=dict)


def room_on(device: str, tool: str) -> Room:
    """`auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:1`. ConfigError for others, and where no GPU is."""
    if device == "cpu":
        return Room(environ={VISIBLE: ""})
    number = re.fullmatch(r"cuda(?::(\d+))?", device)
    if device != "auto" and number is None:
        raise ConfigError(f"{tool}.device={device!r}: write auto, cpu, cuda or cuda:0")
    if not DRIVER.exists():
        if number is not None:
            raise ConfigError(f"{tool}.device={device}: there is no NVIDIA driver on this machine")
        return Room()
    # CUDA maps far more than it uses, the memory of all cards among it: it does not start below such a bound.
    return Room(None, {VISIBLE: number[1]} if number is not None and number[1] else {})
