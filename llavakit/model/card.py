"""The card: what must be the same wherever the weights are used."""

from dataclasses import replace

from llavakit.core.config import Config
from llavakit.model.settings import ConnectorConfig, ModelConfig, TowerConfig
from llavakit.text.grading import Grading
from llavakit.text.template import Template
from llavakit.text.templates import template
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig

IMAGE_FRAME = ("<im_start>", "<im_end>")  # special tokens of the vocabulary where Card.im_start_end is set
VIDEO_TOKEN = "<video>"  # a special token where Card.video is set: other programs need an id for its slots


class Card(Config):
    """What must be the same wherever the weights are used. The `llavakit` section of config.json."""

    tower: TowerConfig = TowerConfig()
    connector: ConnectorConfig = ConnectorConfig()
    image: ImageConfig = ImageConfig()
    video: VideoConfig | None = None  # None: the model takes no videos
    template: str = "vicuna_v1"
    im_start_end: bool = False  # <im_start> and <im_end> around every image (LLaVA v0, LLaVA-Med 1.0)

    grading: Grading | None = None  # a reward model: what it is asked. It scores answers and gives none

    def prompt(self) -> Template:
        """The template's row, with what this checkpoint puts around images."""
        row = template(self.template)
        return replace(row, media_frame=IMAGE_FRAME) if self.im_start_end else row

    def choices(self) -> dict[str, object]:
        """The fields that a run's model settings have too."""
        return {name: value for name, value in self if name in ModelConfig.model_fields}

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """What the vocabulary needs besides `<image>`."""
        return (VIDEO_TOKEN,) * (self.video is not None) + IMAGE_FRAME * self.im_start_end

    @property
    def separators(self) -> tuple[str, ...]:
        """Names of the learned rows that stand between image tokens under these rules."""
        rows = self.image.anyres is not None and self.image.anyres.merge == "unpad"
        video = self.video is not None and self.video.newline != "no_token"
        slow_fast = self.video is not None and self.video.slow_fast is not None
        return ("image_newline",) * (rows or video) + ("faster_token",) * slow_fast
