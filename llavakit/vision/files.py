"""What may be opened as a picture or a video."""

import stat
from pathlib import Path

from llavakit.core.errors import DataError, shorten


def check_file(path: Path, what: str) -> None:
    """Refuse what is not there, and what is no file: a pipe or a device might never end."""
    name = shorten(str(path), 400)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{what} not found: {name}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in it
        raise DataError(f"{name}: cannot be read: {error}") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{name}: not a file")
