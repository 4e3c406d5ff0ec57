"""Videos: which frames are looked at, and how many tokens they give. Integers only, as for images.

Rules of LLaVA-NeXT-Video (2024-04-30), LLaVA-OneVision (arXiv 2408.03326) and LLaVA-Video (arXiv 2410.02713), as
their released code computes them.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError, DataError
from llavakit.vision.layout import Grid, Newline, Plan, Resample, Size
from llavakit.vision.plan import ImageConfig, plan_image

INSTRUCTION = (  # the exact words released weights saw, missing blank included
    "The video lasts for {seconds:.2f} seconds, and {count} frames are uniformly sampled from it. "
    "These frames are located at {times}.Please answer the following questions related to this video."
)


class SlowFast(Config):
    """Every `every`-th frame is slow (pooled by the stride), the others fast (pooled by twice the stride)."""

    every: int = Field(default=10, ge=1)


class VideoConfig(Config):
    """How a video becomes frames, and frames become tokens. Saved in the checkpoint.

    Sampling: `fps` frames a second, at most `max_frames`; with `uniform` always exactly `max_frames`, spread over
    the whole video (frames of a short one repeat). `newline`: behind every row (`grid`), every frame (`frame`),
    once at the end (`one_token`), or nowhere.
    """

    kind: Literal["square", "squash", "pad"] = "square"  # one frame to one tile
    fps: float = Field(default=1.0, gt=0)
    max_frames: int = Field(default=32, ge=1)
    uniform: bool = True
    pool: Literal["average", "max", "bilinear"] = "average"
    stride: int = Field(default=2, ge=1)  # 1: no pooling
    pool_first: bool = False  # before the connector, as in LLaVA-NeXT-Video
    newline: Literal["grid", "frame", "one_token", "no_token"] = "no_token"
    slow_fast: SlowFast | None = None
    time_instruction: bool = False


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video: size as a person sees it, when each frame is shown (seconds from the first), duration.

    `first` and `keys` are for the reader of files: the time stamp of the first frame in the file's own unit, and
    the times of the frames that decoding can start at (none: at the beginning of the file only). `restarts`: the
    file's clock starts again on the way, and `times` go on.
    """

    size: Size
    times: tuple[float, ...]
    seconds: float
    first: int = 0
    keys: tuple[float, ...] = ()
    restarts: bool = False

    @property
    def fps(self) -> float:
        """Frames a second, on average where the rate varies."""
        return len(self.times) / self.seconds if self.seconds > 0 else 1.0


def choose_frames(config: VideoConfig, info: VideoInfo) -> tuple[int, ...]:
    """Which frames are looked at, in order; a frame may come twice.

    The released rule: every round(fps of the video / `fps`)-th frame (the release stops where that is 0, we take
    every one); where that gives more than `max_frames`, or with `uniform`, `max_frames` equal steps over the whole.
    """
    count = len(info.times)
    if count == 0:
        raise DataError("the video has no frames")
    # Whole and half steps come out of a division with a last digit too much; the rounding must not see it.
    step = max(1, round(round(info.fps / config.fps, 6)))
    if config.uniform or len(range(0, count, step)) > config.max_frames:
        return spread(count, config.max_frames)
    return tuple(range(0, count, step))


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` frames of `count` at equal steps, both ends included, cut (not rounded) to whole frames."""
    if wanted == 1:
        return (0,)
    step = (count - 1) / (wanted - 1)
    return *(int(number * step) for number in range(wanted - 1)), count - 1


def time_instruction(seconds: float, times: tuple[float, ...]) -> str:
    """The sentence LLaVA-Video puts between the video and the question."""
    listed = ",".join(f"{time:.2f}s" for time in times)
    return INSTRUCTION.format(seconds=seconds, count=len(times), times=listed)


def pooled(side: int, pool: str, stride: int) -> int:
    """The side of a pooled frame: bilinear rounds up, the others drop what does not fill a window."""
    result = -(-side // stride) if pool == "bilinear" else side // stride
    if result == 0:
        raise ConfigError(f"video: pooling {side} x {side} rows by {stride} leaves none; lower video.stride")
    return result


def plan_video(config: VideoConfig, image: ImageConfig, size: Size, frames: int) -> Plan:
    """The plan of `frames` frames of `size` = (width, height); `image` says what the tower wants."""
    one = plan_image(image.model_copy(update={"kind": config.kind, "anyres": None}), size)
    grids = tuple(_frame(config, image.grid, number, last=number == frames - 1) for number in range(frames))
    return one._replace(grids=grids, frames=frames, pool_first=config.pool_first)


def _frame(config: VideoConfig, side: int, number: int, *, last: bool) -> Grid:
    slow_fast = config.slow_fast
    slow = slow_fast is None or number % slow_fast.every == 0
    stride = config.stride if slow else 2 * config.stride
    small = pooled(side, config.pool, stride)
    resample: Resample = "none" if stride == 1 else config.pool
    ends: dict[str, Newline] = {
        "grid": "row", "frame": "end", "one_token": "end" if last else "none", "no_token": "none"
    }  # fmt: skip
    return Grid(
        first=number,
        tiles=(1, 1),
        crop=(0, 0, side, side),
        size=(small, small),
        resample=resample,
        window=stride,
        newline=ends[config.newline],
        closing=slow_fast is not None,
    )


def rope_factor(num_tokens: int, context: int) -> int:
    """How far positions must be squeezed (linear RoPE scaling) so that `num_tokens` fit a `context`; 1: not."""
    return max(1, -(-num_tokens // context))
