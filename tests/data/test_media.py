"""The depth of grey pictures on its road: from a setting to the tiles, and into the names of what is kept."""

import io

import numpy as np
import PIL.Image

from llavakit.data.media import plan_media
from llavakit.model.checkpoint import load, save
from llavakit.model.directory import complete_card
from llavakit.model.settings import ModelConfig
from llavakit.text.conversation import Image, Video
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig
from tests import tiny

PLAIN = ImageConfig(size=28, grid=2)
DEEP = PLAIN.model_copy(update={"depth": 12})


def scan() -> bytes:
    """12-bit values in a file that says 16."""
    out = io.BytesIO()
    PIL.Image.fromarray(np.linspace(0, 4095, 28 * 28).reshape(28, 28).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def test_the_depth_of_a_model_is_that_of_its_pictures_and_frames():
    parts = (Image(scan()), Video((scan(), scan())))
    for part in parts:
        dark, seen = (plan_media(part, rule, VideoConfig(max_frames=2), alone=True) for rule in (PLAIN, DEEP))
        assert dark.plan == seen.plan
        assert (dark.tiles().max(), seen.tiles().max()) == (15, 255)
        assert dark.content() != seen.content()  # features of one are never taken for the other's


def test_a_run_sets_the_depth_alone_and_the_checkpoint_keeps_it(tmp_path):
    save(tiny.checkpoint(), tmp_path / "start")
    image = load(tmp_path / "start").card.image
    card = complete_card(ModelConfig(start=tmp_path / "start", image_depth=12))
    assert card.image == image.model_copy(update={"depth": 12})
    assert complete_card(ModelConfig(image_depth=12)).image.depth == 12
    changed = load(tmp_path / "start")
    changed.card = card
    save(changed, tmp_path / "trained")
    assert load(tmp_path / "trained").card.image.depth == 12
