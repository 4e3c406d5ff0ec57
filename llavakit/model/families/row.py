"""What a released model is, as data."""

from dataclasses import dataclass
from pathlib import Path

from llavakit.core.errors import ConfigError
from llavakit.model.card import Card
from llavakit.model.families.parts import Decoder
from llavakit.model.formats.towers import Vision
from llavakit.model.settings import LanguageConfig, ModelConfig, TowerConfig
from llavakit.vision.anyres import AnyresConfig, Rule, transpose
from llavakit.vision.frames import plan_video
from llavakit.vision.layout import Plan, Size
from llavakit.vision.plan import ImageConfig, plan_image

MAX_FRAMES = 100_000  # of one plan; no model looks at more than a few hundred


@dataclass(frozen=True)
class Family:
    """One released model.

    `context` is the number of tokens the release was trained (or, where that is not known, can be run) with, and
    `rope_scaling` says that its release stretched that by linear RoPE scaling. `remarks` name what is not verified.
    """

    name: str
    system: str  # the publication it belongs to
    card: Card  # as in use, after the last stage
    vision: Vision
    decoder: Decoder
    context: int
    released: str | None = None  # hub id of the published checkpoint
    converted: str | None = None  # and of the same weights in the layout of `transformers`
    delta: bool = False  # what is released are differences to LLaMA's weights
    rope_scaling: bool = False
    remarks: tuple[str, ...] = ()

    def plan(
        self, size: Size, *, frames: int | None = None, alone: bool = True, rule: Rule | None = None
    ) -> Plan:
        """The plan of an image of `size` = (width, height) in pixels, or of a video of `frames` such frames.

        Not `alone` in a sample of several images. `rule` reads the row's list of grids as the released code or as
        `transformers` does.
        """
        return plan_by(self.card, self.name, size, frames=frames, alone=alone, rule=rule)


def plan_by(card: Card, name: str, size: Size, *, frames: int | None, alone: bool, rule: Rule | None) -> Plan:
    """`Family.plan` under a card's rules; `name` is what messages call the model."""
    image, video = card.image, card.video
    if rule is not None:
        if image.anyres is None or frames is not None:
            what = "videos have" if frames is not None else f"{name} has"
            raise ConfigError(f"rule={rule}: {what} no list of grids that could be read in two ways")
        if rule != image.anyres.rule:
            image = image.model_copy(update={"anyres": transpose(image.anyres, rule)})
    if frames is None:
        return plan_image(image, size, alone=alone)
    if video is None:
        raise ConfigError(f"{name} takes no videos; leave the frames out, or choose another model")
    if not 1 <= frames <= MAX_FRAMES:
        raise ConfigError(f"frames={frames}: from 1 to {MAX_FRAMES}")
    return plan_video(video, image, size, frames)


def clip_tower(vision: Vision) -> TowerConfig:
    """The released rule: features are the output of the last layer but one."""
    return TowerConfig(path=vision.path, layer=-2)


def one_tile(kind: str, vision: Vision) -> ImageConfig:
    """An image rule that makes one tile of the tower's size."""
    return _image(vision, kind=kind)


def tiled(vision: Vision, anyres: AnyresConfig) -> ImageConfig:
    """AnyRes over tiles of the tower's size."""
    return _image(vision, kind="anyres", anyres=anyres)


def _image(vision: Vision, **rule: object) -> ImageConfig:
    pixels = {"mean": vision.kind.mean, "std": vision.kind.std}
    size = {"size": vision.image_size, "grid": vision.image_size // vision.patch_size}
    return ImageConfig.model_validate({**size, **pixels, **rule})


def family_config(row: Family, *, start: Path | None = None, **changes: object) -> ModelConfig:
    """The settings of a run that makes a released model; `changes` replace parts of its card."""
    card = row.card.model_copy(update=changes)
    return ModelConfig(start=start, language=LanguageConfig(path=row.decoder.path), **card.choices())
