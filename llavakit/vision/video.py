"""Videos to upright RGB frames, with PyAV: what is in a file without decoding it, and the frames that are wanted.

A video is a file, the bytes of one, a directory of pictures or a sequence of pictures. Files come from strangers:
FFmpeg gets an opened file of one of FORMATS and can open nothing else (no URL, no playlist), and sizes, durations
and frame counts are bounded. Not covered: a bug in FFmpeg's own C code runs in this process.
"""

import hashlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile, groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import PIL.Image

from llavakit.core.errors import DataError, shorten
from llavakit.vision import image
from llavakit.vision.container import (
    AVI,
    MATROSKA,
    MAX_PACKETS,
    MP4,
    Continuous,
    demux,
    is_hidden,
    open_file,
    opened,
    pyav,
    when,
)
from llavakit.vision.frames import VideoInfo
from llavakit.vision.layout import Size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

T = TypeVar("T")
MAX_SECONDS = 24 * 3600
MAX_FRAMES = 2_000_000  # more than 18 hours at 30 frames a second
DIRECTORY_FPS, MEMORY_FPS = 2.0, 1.0  # assumed: the release says 2 for directories
PICTURES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".j2k",
)  # fmt: skip

VideoSource = Path | bytes | Sequence[image.Source]

# The turn that a display matrix asks for: (x, y) goes to (a x + c y, b x + d y), y pointing down.
_UPRIGHT = {
    (0, 1, -1, 0): PIL.Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): PIL.Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): PIL.Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): PIL.Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): PIL.Image.Transpose.TRANSVERSE,
}


def probe_video(source: VideoSource) -> VideoInfo:
    """Upright size, the time of every frame, duration. Reads all of a file, decodes its first frame only."""
    pictures = _pictures(source)
    if pictures is not None:
        return _probe_pictures(source, pictures)
    with opened(_file(source), name_of(source)) as (container, stream):
        return _probe_file(container, stream, name_of(source))


def load_frames(
    source: VideoSource, info: VideoInfo, indices: Sequence[int], *, bits: int | None = None
) -> list[PIL.Image.Image]:
    """The frames `indices` (positions in time), upright, RGB, all of `info.size`; a repeated one is one picture.

    `info` is what `probe_video` gave; `bits` are those of grey pictures whose files do not say it.
    """
    return map_frames(source, info, indices, lambda picture: picture, bits=bits)


def map_frames(
    source: VideoSource,
    info: VideoInfo,
    indices: Sequence[int],
    use: Callable[[PIL.Image.Image], T],
    *,
    bits: int | None = None,
) -> list[T]:
    """What `use` makes of each frame, as `load_frames` gives them; each is used and forgotten as it is decoded.

    Decoding starts at the last key frame before a wanted frame and goes on while the next one needs no newer key
    frame, so the work is bounded by what is wanted, and so is the memory.
    """
    name, count = name_of(source), len(info.times)
    for index in indices:
        if not 0 <= index < count:
            raise DataError(f"{name}: there is no frame {index}, the last one is {count - 1}")
    found: dict[int, T] = {}
    for index, picture in _frames(source, info, sorted(set(indices)), bits):
        if picture.size != info.size:
            (width, height), (first, second) = picture.size, info.size
            raise DataError(
                f"{name}: frame {index} ({info.times[index]:.2f} s) is {width} x {height} pixels, "
                f"the first one {first} x {second}; frames must have one size"
            )
        found[index] = use(picture)
        del picture  # before the next one is decoded
    return [found[index] for index in indices]


def _frames(
    source: VideoSource, info: VideoInfo, wanted: list[int], bits: int | None
) -> Iterator[tuple[int, PIL.Image.Image]]:
    """(index, frame) of all that are wanted, as they are decoded."""
    pictures, name = _pictures(source), name_of(source)
    if pictures is not None:
        if len(pictures) != len(info.times):
            raise DataError(f"{name}: {len(pictures)} pictures, but {len(info.times)} when it was measured")
        for index in wanted:
            yield index, image.load_image(pictures[index], bits=bits)
        return
    groups = groupby(wanted, lambda index: bisect_right(info.keys, info.times[index]) - 1)
    if info.restarts:  # time stamps that come twice cannot be looked for: each group reads from the beginning
        for key, group in groups:
            with opened(_file(source), name) as (container, stream):
                yield from _load_group(container, stream, info, name, key=key, wanted=list(group))
        return
    with opened(_file(source), name) as (container, stream):
        for key, group in groups:
            yield from _load_group(container, stream, info, name, key=key, wanted=list(group))


def video_digest(source: VideoSource, indices: Sequence[int] | None = None) -> str:
    """A name for what these frames of this video show, or all of them, whatever its path."""
    pictures = _pictures(source)
    if pictures is not None:
        content = [image.digest(pictures[index]) for index in indices or range(len(pictures))]
    else:
        with open_file(_file(source)) as file:
            content = [hashlib.file_digest(file, "sha256").hexdigest()]
    return hashlib.sha256(f"video {content} {list(indices or ())}".encode()).hexdigest()


def name_of(source: VideoSource) -> str:
    """How an error message calls this video."""
    if isinstance(source, Path):
        return shorten(str(source), 400)
    return f"video of {len(source)} {'bytes' if isinstance(source, bytes) else 'pictures'}"


def _file(source: VideoSource) -> Path | bytes:
    """The source, which is no sequence of pictures."""
    assert isinstance(source, Path | bytes)
    return source


def _pictures(source: VideoSource) -> Sequence[image.Source] | None:
    """The frames of a directory, in the order of their names, or those of a sequence; None for anything else."""
    if isinstance(source, bytes):
        return None
    found: Sequence[image.Source] = source if not isinstance(source, Path) else ()
    if isinstance(source, Path):
        try:
            if not source.is_dir():
                return None
            files = [file for file in source.iterdir() if file.suffix.lower() in PICTURES]
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror}") from None
        files = sorted((file for file in files if not file.name.startswith(".")), key=_by_number)
        found = files
    if not found:
        raise DataError(f"{name_of(source)}: no pictures in it ({', '.join(PICTURES)})")
    return found


def _by_number(file: Path) -> tuple[list[str | int], str]:
    """Sorts frame2 before frame10, and names of equal length as ever."""
    parts = re.split("([0-9]+)", file.name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], file.name


def _probe_pictures(source: VideoSource, pictures: Sequence[image.Source]) -> VideoInfo:
    fps = DIRECTORY_FPS if isinstance(source, Path) else MEMORY_FPS
    size = image.image_size(pictures[0])
    for number, picture in enumerate(pictures):
        if (other := image.image_size(picture)) != size:
            raise DataError(
                f"{name_of(source)}: frame {number} is {other[0]} x {other[1]} pixels, the first one "
                f"{size[0]} x {size[1]}; frames must have one size"
            )
    return VideoInfo(size, tuple(number / fps for number in range(len(pictures))), len(pictures) / fps)


def _probe_file(container: "InputContainer", stream: "VideoStream", name: str) -> VideoInfo:
    shown, keys = array("q"), array("q")  # time stamps in ticks; eight bytes a frame, however long the video
    read, end, trusted = 0, 0.0, True
    last: tuple[int, int] | None = None  # stamp and duration
    first: VideoFrame | None = None
    packets = Continuous(container, stream)
    for number, packet in enumerate(packets):
        if number > MAX_PACKETS:
            raise DataError(f"{name}: more than {MAX_PACKETS} packets of pictures and sound; cut it")
        stamp = when(container, packet)
        if stamp is None:  # the empty packet at the end, or one that nothing says when to show
            continue
        end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        read += packet.size > 0
        if read > MAX_FRAMES:
            raise DataError(f"{name}: more than {MAX_FRAMES} frames; cut it into shorter videos")
        if packet.size == 0 or not (keys or packet.is_keyframe):
            continue  # a dropped frame; a recording that begins between two key frames
        trusted &= packet.pts is not None
        if packet.is_keyframe:
            keys.append(stamp)
        if stamp >= keys[0] and not packet.is_discard and not is_hidden(stream, packet):
            shown.append(stamp)
            last = max(last or (stamp, 0), (stamp, packet.duration or 0))
        if first is None:
            first = next(iter(stream.decode(packet)), None)
    if first is None:
        first = next(iter(stream.decode(None)), None)
    if first is None or last is None:
        raise DataError(f"{name}: no frame in it can be decoded")
    _check_whole(container, stream, name, read=read, end=end)
    trusted &= container.format.name != AVI or not stream.codec_context.has_b_frames
    starts = sorted(set(keys)) if trusted else []
    info = _info(stream, name, _upright_size(first), sorted(set(shown)), last[1], starts)
    return replace(info, restarts=packets.restarts > 0)


def _check_whole(
    container: "InputContainer", stream: "VideoStream", name: str, *, read: int, end: float
) -> None:
    """Refuse a file that ends before its header says; `read` video frames were there, up to `end` seconds."""
    listed = promised = 0.0  # other formats list some frames only, and guess the duration
    if container.format.name == MP4 and read < len(stream.index_entries):
        listed = sum(entry.size > 0 for entry in stream.index_entries)
    if container.format.name == MATROSKA:
        promised = (container.duration or 0) / 1e6
    if read < listed:
        raise DataError(
            f"{name}: cut short, {read} of {listed:.0f} frames are in the file; get the file again"
        )
    if end < promised - 1:
        raise DataError(
            f"{name}: cut short, {end:.1f} of {promised:.1f} s are in the file; get the file again"
        )


def _info(
    stream: "VideoStream", name: str, size: Size, ticks: list[int], duration: int, keys: list[int]
) -> VideoInfo:
    """The probe's result from stamps in ticks; the last frame lasts `duration` ticks, 0 where nobody says."""
    base = stream.time_base
    assert base is not None
    span = ticks[-1] - ticks[0]
    if duration <= 0 and len(ticks) > 1:
        duration = round(span / (len(ticks) - 1))
    seconds = (span + duration) * base.numerator / base.denominator
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{name}: lasts {seconds / 3600:.0f} hours, the limit is {MAX_SECONDS // 3600}; cut it"
        )
    if seconds <= 0 and stream.average_rate:
        seconds = float(1 / stream.average_rate)
    # One correctly rounded division each: 50 frames at 5 a second last 10 s, not 9.999….
    times, starts = (
        tuple((tick - ticks[0]) * base.numerator / base.denominator for tick in row) for row in (ticks, keys)
    )
    return VideoInfo(size, times, seconds, first=ticks[0], keys=starts)


def _load_group(
    container: "InputContainer",
    stream: "VideoStream",
    info: VideoInfo,
    name: str,
    *,
    key: int,
    wanted: list[int],
) -> Iterator[tuple[int, PIL.Image.Image]]:
    """The `wanted` frames, all of which need key frame `key` and none after it; -1: count them from the start."""
    av = pyav()
    # What says which frame it is: its time stamp, or how many came before it.
    count = key < 0 or container.format.name == AVI
    start = bisect_left(info.times, info.keys[key]) if key >= 0 else 0
    missing = {index if count else _stamp(stream, info, info.times[index]): index for index in wanted}
    end = max(missing)
    reason = "the file is damaged or ends before it"
    try:
        for number, frame in enumerate(_decode(_packets(container, stream, info, key), stream), start):
            mark = number if count else frame.pts
            if mark in missing and not frame.is_corrupt:
                yield missing.pop(mark), _upright(frame)
            if not missing or mark is None or mark >= end:
                break
    except av.FFmpegError as error:
        reason = error.strerror
    for index in missing.values():
        raise DataError(f"{name}: frame {index} ({info.times[index]:.2f} s) cannot be decoded: {reason}")


def _decode(packets: Iterator["Packet[Stream]"], stream: "VideoStream") -> Iterator["VideoFrame"]:
    """Frames in the order of their times, up to the first damaged packet."""
    for packet in packets:
        if packet.is_corrupt:
            break
        if packet.size:  # an empty packet would tell the decoder that the file has ended
            yield from stream.decode(packet)
    yield from stream.decode(None)


def _packets(
    container: "InputContainer", stream: "VideoStream", info: VideoInfo, key: int
) -> Iterator["Packet[Stream]"]:
    """All packets from key frame `key` on. For 0 and -1 the container must be new.

    Some formats (MPEG-TS) seek to a packet behind the one asked for; then an earlier key frame is asked for, and
    what comes before the right one is read, not decoded.
    """
    if key <= 0:
        yield from dropwhile(lambda packet: not packet.is_keyframe, _of_video(container, stream, info))
        return
    target, step, earlier = _stamp(stream, info, info.keys[key]), 1, key
    if info.restarts:
        in_order = _of_video(container, stream, info)
        yield from dropwhile(lambda packet: not packet.is_keyframe or packet.pts != target, in_order)
        return
    while True:
        container.seek(_stamp(stream, info, info.keys[earlier]), stream=stream)
        reached = False
        for packet in demux(container, stream):
            stamp = when(container, packet)
            if not reached and packet.is_keyframe and stamp is not None:
                reached = stamp == target
                if stamp > target:
                    break
            if reached:
                yield packet
        if reached or earlier == 0:
            return
        earlier, step = max(earlier - step, 0), 2 * step


def _of_video(
    container: "InputContainer", stream: "VideoStream", info: VideoInfo
) -> Iterable["Packet[Stream]"]:
    """The video's packets from the start of the file."""
    if not info.restarts:
        return demux(container, stream)
    return (packet for packet in Continuous(container, stream) if packet.stream_index == stream.index)


def _stamp(stream: "VideoStream", info: VideoInfo, seconds: float) -> int:
    """The file's time stamp of what is shown `seconds` after the first frame."""
    base = stream.time_base
    assert base is not None
    return info.first + round(seconds * base.denominator / base.numerator)


def _upright(frame: "VideoFrame") -> PIL.Image.Image:
    # Not frame.to_image(): it copies the pixels three times.
    turn, picture = _UPRIGHT.get(_matrix(frame)), PIL.Image.fromarray(frame.to_ndarray(format="rgb24"))
    return picture if turn is None else picture.transpose(turn)


def _upright_size(frame: "VideoFrame") -> Size:
    a, _, _, _ = _matrix(frame)
    return (frame.width, frame.height) if a else (frame.height, frame.width)


def _matrix(frame: "VideoFrame") -> tuple[int, int, int, int]:
    """The display matrix in quarter turns; (1, 0, 0, 1), as stored, where there is none or a senseless one."""
    data = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return (1, 0, 0, 1)
    values = np.frombuffer(bytes(data), np.int32).astype(float)[[0, 1, 3, 4]]
    a, b, c, d = (int(value) for value in np.sign(values) * (abs(values) > abs(values).max() / 2))
    return (a, b, c, d) if (a, b, c, d) in _UPRIGHT else (1, 0, 0, 1)
