"""Pictures and videos of a request: data URLs, files off the web, files below a root. Bytes from strangers.

What is checked here: where it comes from, how much there is, that its first bytes are of the kind it claims to be,
and that a picture's header asks for a bearable number of pixels. The decoder of that kind then has to decode it
wholly when the request is prepared, so a file of two kinds is only ever the one it claimed, and what follows the
picture in a file is never looked at. SVG and whatever else is a program rather than pixels is no kind here.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import unquote_to_bytes, urlsplit

from llavakit.core.errors import DataError
from llavakit.serve.fetch import Fetched, Fetcher
from llavakit.serve.settings import ServeConfig
from llavakit.vision.data_url import decode_data_url
from llavakit.vision.image import image_size
from llavakit.vision.kinds import KINDS, Sort, kind_of

# Other names that are used for them; the containers of one family are told apart by FFmpeg, not by us.
ALIASES = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "video/gif": "image/gif",
    "video/quicktime": "video/mp4", "video/x-m4v": "video/mp4", "video/matroska": "video/webm",
    "video/x-matroska": "video/webm", "video/avi": "video/x-msvideo", "video/msvideo": "video/x-msvideo",
}  # fmt: skip
UNNAMED = ("", "application/octet-stream", "binary/octet-stream")  # a claim that claims nothing


class Budget:
    """Bytes that the media of one request may still take together; shared by the threads that fetch them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken, self._lock = 0, Lock()

    def take(self, count: int) -> None:
        """Count them, or refuse."""
        with self._lock:
            self._taken += count
            if self._taken > self.limit:
                raise DataError(
                    f"all pictures and videos of a request together are larger than {self.limit} bytes"
                )


@dataclass(frozen=True)
class MediaReader:
    """URLs to bytes that may be decoded."""

    settings: ServeConfig
    fetcher: Fetcher

    def read(self, url: str, sort: Sort, budget: Budget) -> bytes:
        """The bytes behind a URL of any allowed kind. Raises DataError, one line."""
        limit = self.settings.max_image_bytes if sort == "image" else self.settings.max_video_bytes
        scheme = url[:16].partition(":")[0].lower()
        if scheme == "data":
            kind, data = decode_data_url(url, limit)
            found = Fetched(data, kind)
        elif scheme == "file":
            found = self._from_file(url, limit)
        else:
            found = self.fetcher.fetch(url, limit)
        budget.take(len(found.data))
        _check_kind(found, sort)
        if sort == "image":
            width, height = image_size(found.data)
            if width * height > self.settings.max_image_pixels:
                raise DataError(
                    f"{width} x {height} pixels; at most {self.settings.max_image_pixels} in all, scale it down"
                )
        return found.data

    def _from_file(self, url: str, limit: int) -> Fetched:
        if self.settings.media_root is None:
            raise DataError("file:// is not allowed here (the server has no --media-root)")
        try:
            parts = urlsplit(url)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise DataError("a file URL is file:///the/whole/path")
            root = self.settings.media_root.resolve()
            # Links and dots are followed first; what is asked for is the place they lead to.
            path = Path(os.fsdecode(unquote_to_bytes(parts.path))).resolve()
        except (ValueError, OSError, RuntimeError):  # a NUL in it; a loop of links
            raise DataError("not the URL of a file") from None
        if not path.is_relative_to(root) or path == root:
            raise DataError("the file is not below the server's media root")
        return Fetched(_read_file(path, limit), "")


def _read_file(path: Path, limit: int) -> bytes:
    """A regular file's bytes. The path holds no link any more: one that appears now is refused."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DataError("not a file")
            data = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"larger than {limit} bytes")
    return data


def _check_kind(found: Fetched, sort: Sort) -> None:
    """Refuse bytes that are no picture or video, or another kind than they are said to be."""
    claim = ALIASES.get(found.media_type, found.media_type)
    known = ", ".join(kind.partition("/")[2] for kind in KINDS[sort])
    if claim not in KINDS[sort] and claim not in UNNAMED:
        raise DataError(f"its media type is {claim}; {sort}s are {known}")
    kind = kind_of(found.data, sort)
    if kind is None:
        raise DataError(f"not {'an image' if sort == 'image' else 'a video'} in a known format ({known})")
    if claim in KINDS[sort] and claim != kind:
        raise DataError(f"it is said to be {claim}, but its bytes are {kind}")
