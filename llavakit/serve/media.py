"""Pictures and videos of a request: data URLs, files off the web, files below a root. Bytes from strangers.

What is checked here: where it comes from, how much there is, what its first bytes say that it is, and how many
pixels its header asks for. Clients often name a picture's type wrongly, so its bytes have the word; a video has to
be what it is said to be. What follows the picture in a file is never looked at. SVG and whatever else is a program
rather than pixels is no kind here.
"""

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import unquote_to_bytes, urlsplit

from llavakit.core.errors import DataError
from llavakit.data.media import Clip, Measured, Media
from llavakit.serve.budget import MemoryShare
from llavakit.serve.fetch import Address, Fetched, Fetcher, is_elsewhere
from llavakit.serve.settings import ServeConfig
from llavakit.vision.data_url import decode_data_url
from llavakit.vision.frames import VideoInfo
from llavakit.vision.kinds import KINDS, Sort, kind_of

# Other names that are used for them; the containers of one family are told apart by FFmpeg, not by us.
ALIASES = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "video/gif": "image/gif",
    "video/quicktime": "video/mp4", "video/x-m4v": "video/mp4", "video/matroska": "video/webm",
    "video/x-matroska": "video/webm", "video/avi": "video/x-msvideo", "video/msvideo": "video/x-msvideo",
    "video/x-mpeg": "video/mpeg", "video/mpg": "video/mpeg", "video/m2ts": "video/vnd.dlna.mpeg-tts",
    "video/x-flash-video": "video/x-flv", "video/flv": "video/x-flv", "video/x-ms-asf": "video/x-ms-wmv",
}  # fmt: skip
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Measure = Callable[[Sort, bytes], Measured]
UNNAMED = ("", "application/octet-stream", "binary/octet-stream")  # a claim that claims nothing


class Budget:
    """Bytes, or pixels, that the media of one request may take together; shared by the threads that read them.

    Bytes are held as "media" of `share`.
    """

    def __init__(self, limit: int, what: str = "bytes", share: MemoryShare | None = None) -> None:
        self.limit, self.what, self.share = limit, what, share
        self._taken, self._lock = 0, Lock()

    def take(self, count: int) -> None:
        """Count them, or refuse."""
        with self._lock:
            self._taken += count
            if self._taken > self.limit:
                raise DataError(
                    f"all pictures and videos of a request together are larger than {self.limit} {self.what}"
                )
            if self.share is not None:
                self.share.hold("media", self._taken)


@dataclass(frozen=True)
class Received:
    """The bytes of a picture or video, and its size or what is in it."""

    data: bytes
    measured: Measured


@dataclass(frozen=True)
class MediaReader:
    """URLs to bytes that may be decoded."""

    settings: ServeConfig
    fetcher: Fetcher

    def read(self, url: str | memoryview, sort: Sort, budget: Budget, measure: Measure) -> Received:
        """What is behind a URL of any allowed kind. Raises DataError, one line."""
        limit = self.settings.max_image_bytes if sort == "image" else self.settings.max_video_bytes
        scheme = scheme_of(url)
        if isinstance(url, memoryview) or scheme == "data":
            kind, data = decode_data_url(url, limit)
            found = Fetched(data, kind)
            budget.take(len(data))
        elif scheme == "file":
            found = self._from_file(url, limit)
            budget.take(len(found.data))
        else:
            found = self.fetcher.fetch(url, limit, budget.take)
        _check_kind(found, sort)
        measured = measure(sort, found.data)
        self._check_size(measured)
        return Received(found.data, measured)

    def _check_size(self, measured: Measured) -> None:
        """Refuse a picture, or a frame, of too many pixels, and a video of too many frames."""
        limits = self.settings
        if isinstance(measured, VideoInfo) and len(measured.times) > limits.max_video_frames:
            raise DataError(
                f"{len(measured.times)} frames; this server takes at most {limits.max_video_frames}, cut it"
            )
        width, height = measured.size if isinstance(measured, VideoInfo) else measured
        if width * height > limits.max_image_pixels:
            raise DataError(
                f"{width} x {height} pixels; at most {limits.max_image_pixels} in all, scale it down"
            )

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
        return Fetched(_read_file(root, path.relative_to(root).parts, limit), "")


def _read_file(root: Path, parts: Sequence[str], limit: int) -> bytes:
    """A regular file's bytes, below `root`.

    The parts of its path held no link when they were looked at. They are opened one in the other, so that a link
    that stands in the place of one by now leads nowhere: it is refused.
    """
    with ExitStack() as exits:
        try:
            handle = os.open(root, FOLDER)
            for part in parts[:-1]:
                exits.callback(os.close, handle)
                handle = os.open(part, FOLDER, dir_fd=handle)
            exits.callback(os.close, handle)
            last = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
            with os.fdopen(last, "rb") as file:
                if not stat.S_ISREG(os.fstat(last).st_mode):
                    raise DataError("not a file")
                data = file.read(limit + 1)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"larger than {limit} bytes")
    return data


def scheme_of(url: str | memoryview) -> str:
    """`http`, say. What was taken out of a body is a data URL."""
    return url[:16].partition(":")[0].lower() if isinstance(url, str) else "data"


def default_fetcher(settings: ServeConfig) -> Fetcher:
    """What the settings say about the web."""
    schemes = ("https", "http") if settings.allow_http else ("https",)

    def allowed(address: Address) -> bool:
        return is_elsewhere(address) and not any(address in network for network in settings.refuse_networks)

    return Fetcher(
        settings.fetch_seconds, settings.max_redirects, schemes, allowed=allowed, ports=settings.fetch_ports
    )


def num_pixels(media: Media, measured: Measured) -> int:
    """How many are decoded at least: those of the picture, or of the frames that are looked at."""
    width, height = measured.size if isinstance(measured, VideoInfo) else measured
    return width * height * (len(set(media.source.frames)) if isinstance(media.source, Clip) else 1)


def _check_kind(found: Fetched, sort: Sort) -> None:
    """Refuse bytes that are no picture or video, and a video that is said to be something else."""
    claim = ALIASES.get(found.media_type, found.media_type)
    known = ", ".join(kind.partition("/")[2] for kind in KINDS[sort])
    kind = kind_of(found.data, sort)
    if kind is not None and sort == "image":
        return
    if claim not in KINDS[sort] and claim not in UNNAMED:
        raise DataError(f"its media type is {claim}; {sort}s are {known}")
    if kind is None:
        raise DataError(f"not {'an image' if sort == 'image' else 'a video'} in a known format ({known})")
    if claim in KINDS[sort] and claim != kind:
        raise DataError(f"it is said to be {claim}, but its bytes are {kind}")
