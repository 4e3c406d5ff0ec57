"""Files that come from strangers become sessions: pictures, and sessions that were saved elsewhere."""

import io
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from llavakit.core.errors import DataError, UserError
from llavakit.studio.engines import Bench
from llavakit.studio.openraster import is_openraster
from llavakit.studio.saving import SESSION_PARTS, unpack_session
from llavakit.studio.session import Session

LARGEST = 2**30  # bytes of a session, unpacked
# What reading a journal that was not written here may come to.
STRANGE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    zlib.error,
    RecursionError,
)


def receive(data: bytes, folder: Path, bench: Bench, title: str) -> Session:
    """A session in `folder`, which must not exist. DataError for what is neither picture nor session."""
    if not data.startswith(b"PK") or is_openraster(data):
        return Session.create(folder, data, bench, name=title)
    _check(data)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        unpack_session(Path(file.name), folder)
    try:
        return Session.open(folder, bench)
    except (*STRANGE, UserError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        what = str(error) if isinstance(error, UserError) else "it says what no session says"
        raise DataError(f"not a session that was saved here: {what}") from None


def _check(data: bytes) -> None:
    """Names and sizes before anything is unpacked; a part never gives more than it says."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise DataError("neither a picture nor a session that was saved here") from None
    if sorted(part.filename for part in parts) != sorted(SESSION_PARTS):
        raise DataError("neither a picture nor a session that was saved here")
    if sum(part.file_size for part in parts) > LARGEST:
        raise DataError(f"a session may have {LARGEST >> 20} MiB, unpacked")
