"""TensorBoard event files, written by PyTorch's own writer where the package `tensorboard` is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llavakit.core.progress import say

FOLDER = "tensorboard"
NOT_A_CURVE = ("step", "spike", "skipped")


class Events:
    """The numbers of every metrics row as curves in `RUN/tensorboard`."""

    def __init__(self, folder: Path, *, done: int) -> None:
        """`done`: the last step that counts; curves behind it (of a run that was killed) are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)

    def add(self, row: dict[str, Any]) -> None:
        """One metrics row."""
        for name, value in row.items():
            if name not in NOT_A_CURVE:
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


def open_events(folder: Path, *, wanted: bool, done: int) -> Events | None:
    """The event files, if they are wanted and can be written; if they cannot, one line says so."""
    if not wanted:
        return None
    if find_spec("tensorboard") is None:
        say("watch.tensorboard: no event files, tensorboard is not installed: pip install 'llavakit[watch]'")
        return None
    return Events(folder, done=done)
