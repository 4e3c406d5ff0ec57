"""An image or a video of a sample: where it comes from, its plan, and its tiles when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.text.conversation import Image, ImageSource, Video, VideoSource
from llavakit.vision.frames import VideoConfig, VideoInfo, choose_frames, plan_video, time_instruction
from llavakit.vision.image import cut_tiles, digest, image_size, load_image, name_of
from llavakit.vision.layout import Plan, Size
from llavakit.vision.plan import ImageConfig, plan_image
from llavakit.vision.video import map_frames, probe_video, video_digest
from llavakit.vision.video import name_of as video_name

T = TypeVar("T")
Measured = Size | VideoInfo


@dataclass(frozen=True)
class Clip:
    """A video and the frames of it that are looked at."""

    source: VideoSource
    info: VideoInfo
    frames: tuple[int, ...]

    @property
    def instruction(self) -> str:
        """LLaVA-Video's sentence about the frames and when they are shown."""
        return time_instruction(self.info.seconds, tuple(self.info.times[frame] for frame in self.frames))


@dataclass(frozen=True)
class Media:
    """A picture or clip and how it is cut. Its tokens are the next `plan.num_tokens` slots of the sample."""

    source: ImageSource | Clip
    plan: Plan
    depth: int | None = None  # `ImageConfig.depth`

    @property
    def name(self) -> str:
        """How a message calls it."""
        return video_name(self.source.source) if isinstance(self.source, Clip) else name_of(self.source)

    def content(self) -> str:
        """A name for what is seen: equal for equal files, whatever their paths."""
        deep = "" if self.depth is None else f" {self.depth} bits"
        if isinstance(self.source, Clip):
            return video_digest(self.source.source, self.source.frames) + deep
        return digest(self.source) + deep

    def pictures(self) -> list[PIL.Image.Image]:
        """The decoded picture, or the clip's frames, all in memory: to show them."""
        return self._each(lambda picture: picture)

    def tiles(self) -> Tensor:
        """uint8[N, H, W, 3]: what the tower sees, frame by frame. One decoded frame is in memory at a time."""
        return torch.from_numpy(np.concatenate(self._each(lambda picture: cut_tiles(picture, self.plan))))

    def _each(self, use: Callable[[PIL.Image.Image], T]) -> list[T]:
        if not isinstance(self.source, Clip):
            return [use(load_image(self.source, bits=self.depth))]
        clip = self.source
        return map_frames(clip.source, clip.info, clip.frames, use, bits=self.depth)


def measure(part: Image | Video) -> Measured:
    """A picture's size, from its header; what is in a video, from its packets."""
    return image_size(part.source) if isinstance(part, Image) else probe_video(part.source)


def plan_media(part: Image | Video, image: ImageConfig, video: VideoConfig | None, *, alone: bool) -> Media:
    """Plan a part of a conversation from its header. `alone`: the sample has no other image."""
    check_video(part, video)
    return plan_measured(part, measure(part), image, video, alone=alone)


class Planned:
    """`plan_media` for conversations that are asked together: a source that several show is opened once."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[object, Media]] = {}

    def __call__(
        self, part: Image | Video, image: ImageConfig, video: VideoConfig | None, *, alone: bool
    ) -> Media:
        source = part.source
        key = source if isinstance(source, Path) else id(source), type(part), alone
        if key not in self._known:
            self._known[key] = source, plan_media(part, image, video, alone=alone)  # the source keeps its id
        return self._known[key][1]


def check_video(part: Image | Video, video: VideoConfig | None) -> None:
    """Refuse a video where the model takes none."""
    if isinstance(part, Video) and video is None:
        raise DataError(f"{video_name(part.source)}: this model was not trained on videos; give it pictures")


def plan_measured(
    part: Image | Video, measured: Measured, image: ImageConfig, video: VideoConfig | None, *, alone: bool
) -> Media:
    """`plan_media` of what has been measured already."""
    if isinstance(measured, VideoInfo):
        check_video(part, video)
        assert isinstance(part, Video) and video is not None
        frames = choose_frames(video, measured)
        plan = plan_video(video, image, measured.size, len(frames))
        return Media(Clip(part.source, measured, frames), plan, image.depth)
    assert isinstance(part, Image)
    return Media(part.source, plan_image(image, measured, alone=alone), image.depth)
