"""The card: what must be the same wherever the weights are used."""

from dataclasses import replace
from pathlib import Path

from llavakit.core.config import Config, make
from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.model.connector import ConnectorConfig
from llavakit.model.formats.original import card_settings, is_original, need_template, vision_settings
from llavakit.model.hf_card import MODEL_TYPES, card_fields
from llavakit.model.tower import TowerConfig
from llavakit.text.template import Template
from llavakit.text.templates import template
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig

LATEST = "latest"  # a text file in a run directory that names the newest checkpoint beside it
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

    def prompt(self) -> Template:
        """The template's row, with what this checkpoint puts around images."""
        row = template(self.template)
        return replace(row, media_frame=IMAGE_FRAME) if self.im_start_end else row

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


def resolve(path: Path) -> Path:
    """The directory with the weights: `path` itself, or what the run directory's `latest` file names."""
    for _ in range(4):
        if (path / "config.json").is_file():
            return path
        pointer = path / LATEST
        if not pointer.is_file():
            break
        path = path / pointer.read_text().strip()
    what = "is not a checkpoint (no config.json and no 'latest' file)" if path.exists() else "does not exist"
    raise CheckpointError(f"{path} {what}")


def load_card(path: Path, template_name: str | None = None) -> Card:
    """The llavakit section; for a plain Hugging Face directory, what its config says in other words."""
    folder = resolve(path)
    config = read_json(folder / "config.json")
    chosen = {} if template_name is None else {"template": template_name}
    if "llavakit" in config:
        section = {key: value for key, value in config["llavakit"].items() if key != "version"} | chosen
        return make(Card, section, where=f"{folder}/config.json: llavakit")
    if is_original(config):
        where = f"{folder}/config.json"
        if template_name is None:
            raise need_template(config, where)
        return make(Card, card_settings(config, vision_settings(config, where), where) | chosen, where=where)
    if config.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: model_type {config.get('model_type')!r} is not a LLaVA that llavakit reads"
        )
    if template_name is None:
        raise CheckpointError(
            f"{folder}: a Hugging Face directory does not say which prompt template it was trained with; name one"
        )
    return make(Card, card_fields(config, folder) | chosen, where=f"{folder}/config.json")
