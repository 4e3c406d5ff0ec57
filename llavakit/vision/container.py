"""Video files through FFmpeg: opened safely, and their packets in one order of time.

Files come from strangers: FFmpeg gets an opened file of one of FORMATS and can open nothing else (no URL, no
playlist). Not covered: a bug in FFmpeg's own C code runs in this process.
"""

import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, cast

from llavakit.core.errors import ConfigError, DataError
from llavakit.vision import image
from llavakit.vision.files import check_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # FFmpeg's names
AVI = "avi"  # knows no presentation times, only the order in which frames are stored
RESTARTING = ("mpegts", "mpeg")  # files may be put one behind the other, each with its own clock
FORMATS = ",".join((MP4, MATROSKA, AVI, *RESTARTING, "gif", "flv", "asf", "ogg"))
MAX_PACKETS = 20_000_000  # of pictures, sound and all else: a day has four million of sound
SEAM = 2  # packets in front of a clock's restart whose mark `corrupt` only says that the counters jump there


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The opened file and its video stream, ready to decode. What FFmpeg finds wrong meanwhile is a DataError."""
    av = pyav()
    with open_file(source) as file:
        try:
            container = av.open(
                file,
                "r",
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
                metadata_errors="replace",
                io_open=_refuse,
            )
        except av.ArgumentError:
            raise DataError(f"{name}: not a video in a known format ({FORMATS})") from None
        except (av.FFmpegError, OSError) as error:
            raise DataError(
                f"{name}: not a video, or its header is broken or cut off ({error.strerror})"
            ) from None
        with container:
            stream = _video_stream(container, name)
            try:
                yield container, stream
            except av.FFmpegError as error:
                raise DataError(f"{name}: broken video: {error.strerror}") from None


def open_file(source: Path | bytes) -> io.BufferedReader | io.BytesIO:
    """Opened by Python, so that a name like `concat:x` or `http://x` is a file's name and nothing else."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    check_file(source, "video")
    try:
        return source.open("rb")
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None


def pyav() -> ModuleType:
    """PyAV, imported when the first video is met: it is an extra."""
    try:
        import av
    except ImportError:
        raise ConfigError("videos need the package av: pip install 'llavakit[video]'") from None
    return av


def demux(container: "InputContainer", *streams: "Stream") -> Iterator["Packet[Stream]"]:
    """The packets of `streams`, of all where none is named, in the order of the file."""
    try:
        for packet in container.demux(*streams):
            if not _is_empty_gif(container, packet):
                yield packet
    except IndexError:  # PyAV, having given all packets, trips over a stream that appeared after the header
        return


class Continuous:
    """All packets of a file in the order of the file, those of the video in one order of time.

    Where the clock of the video starts again (recordings put one behind the other) the packets' times go on from
    the end of what was there before, and `restarts` counts it.
    """

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self.restarts = 0
        self._container, self._stream = container, stream
        self._clock: int | None = None  # the last packet's own time
        self._shift, self._end = 0, 0  # ticks added to times; where the video ends as far as it was read

    def __iter__(self) -> Iterator["Packet[Stream]"]:
        if self._container.format.name not in RESTARTING:
            yield from demux(self._container)
            return
        held: deque[Packet[Stream]] = deque()
        for packet in demux(self._container):
            if packet.stream_index == self._stream.index and packet.dts is not None:
                before = self.restarts
                self._follow(packet)
                if self.restarts > before:
                    for each in held:
                        each.is_corrupt = False
            held.append(packet)
            if len(held) > SEAM:
                yield held.popleft()
        yield from held

    def _follow(self, packet: "Packet[Stream]") -> None:
        """Move its times behind what was read before."""
        assert packet.dts is not None
        if self._clock is not None and packet.dts < self._clock:
            self.restarts += 1
            self._shift = self._end - (packet.dts if packet.pts is None else packet.pts)
        self._clock = packet.dts
        packet.dts += self._shift
        if packet.pts is not None:
            packet.pts += self._shift
        stamp = packet.dts if packet.pts is None else packet.pts
        self._end = max(self._end, stamp + (packet.duration or 1))


def when(container: "InputContainer", packet: "Packet[Stream]") -> int | None:
    """When the packet's frame is shown, in ticks; where only that is known, when it is decoded."""
    return packet.dts if packet.pts is None or container.format.name == AVI else packet.pts


def is_hidden(stream: "VideoStream", packet: "Packet[Stream]") -> bool:
    """Whether it is only there for other frames to refer to: VP8 stores those as packets of their own."""
    show_frame = memoryview(packet)[0] & 0x10  # RFC 6386, 9.1
    return stream.codec_context.name == "vp8" and not show_frame


def _is_empty_gif(container: "InputContainer", packet: "Packet[Stream]") -> bool:
    """Whether it is what stands behind the last frame of a GIF: extensions (a comment), and no image."""
    if container.format.name != "gif" or packet.size == 0:
        return False
    data, at = bytes(packet), 0
    while data[at : at + 1] == b"!":  # an extension: its label, then blocks up to an empty one
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return data[at : at + 1] not in (b",", b"G")  # an image; the file's own head, which the first frame has


def _video_stream(container: "InputContainer", name: str) -> "VideoStream":
    av = pyav()
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:  # the cover of a song
        what = "only sound" if container.streams.audio else "no video"
        raise DataError(f"{name}: {what} in it")
    if stream.codec_context is None:
        raise DataError(f"{name}: this FFmpeg cannot decode its video; convert it to H.264")
    if stream.width * stream.height > image.MAX_PIXELS:
        raise DataError(
            f"{name}: {stream.width} x {stream.height} pixels a frame; the limit is {image.MAX_PIXELS} in all, "
            f"scale it down first"
        )
    stream.thread_type = "SLICE"  # frame threads hang when decoding stops early
    stream.codec_context.options = {
        "max_pixels": str(image.MAX_PIXELS)
    }  # the stream may say more than the header
    return stream


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"refers to another file or address ({url}), which is never opened")
