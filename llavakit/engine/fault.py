"""Where an error ends: the one boundary that keeps a fault with the request it belongs to.

Everywhere else errors are caught by their names. Around the work of one request no name would do: whatever goes
wrong there, in a library, a matcher or a listener, must end that request and no other.
"""

import logging
import traceback
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)


class Boundary:
    """`with Boundary() as own:` an error inside ends here, and is `own.error`."""

    error: Exception | None = None

    def __enter__(self) -> "Boundary":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):  # nothing, or the end of the process
            return False
        self.error = error
        return True


def describe(error: BaseException) -> str:
    """The kind of an error and where it happened, without its message: that may quote what a user wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    return " < ".join([type(error).__name__, *places])


def report(what: str, error: BaseException) -> None:
    """Log a fault by its kind and place; the whole of it, with what users wrote, on the level DEBUG alone."""
    log.error("%s: %s", what, describe(error))
    log.debug("%s", what, exc_info=error)
