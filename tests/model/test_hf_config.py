"""Which Hugging Face class a card becomes, and what is said where none is exactly it."""

import json

import pytest
import torch
from transformers import AutoConfig

from llavakit.core.errors import CheckpointError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.build import build
from llavakit.model.card import VIDEO_TOKEN, Card
from llavakit.model.directory import load_card
from llavakit.model.hf_config import hf_fit, why_not_hf
from llavakit.model.llava import Llava, Newline
from llavakit.model.settings import LanguageConfig, ModelConfig
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.frames import SlowFast, VideoConfig
from llavakit.vision.plan import ImageConfig
from tests import tiny

NEXT = {"pinpoints": ((336, 672), (672, 336), (672, 672)), "rule": "transformers"}
NEXT_VIDEO = {"pool": "average", "pool_first": True}
ONEVISION = {"kind": "squash", "pool": "bilinear", "newline": "one_token"}


def card(video: dict | None = None, several: str = "same", **anyres) -> Card:
    """An AnyRes card with these changes."""
    image = ImageConfig(kind="anyres", anyres=AnyresConfig(**NEXT | anyres), several=several)
    return Card(image=image, video=None if video is None else VideoConfig(**video))


@pytest.mark.parametrize(
    ("model_type", "of"),
    [
        ("llava", Card()),
        ("llava", Card(image=ImageConfig(kind="square"))),
        ("llava", Card(image=ImageConfig(kind="squash"), connector={"kind": "linear"})),
        ("llava_next", card()),
        ("llava_next_video", card(NEXT_VIDEO)),
        ("llava_next_video", card(NEXT_VIDEO | {"pool": "max", "kind": "squash"})),
        ("llava_onevision", card(several="pad", max_tiles=9)),
        ("llava_onevision", card(ONEVISION, several="pad", max_tiles=9)),
        ("llava_onevision", card(ONEVISION | {"kind": "square"}, several="pad")),
    ],
)
def test_a_card_that_a_class_expresses_exactly(model_type, of):
    assert hf_fit(of) == (model_type, ())
    assert why_not_hf(of) is None


@pytest.mark.parametrize(
    ("of", "word"),
    [
        (Card(tower={"kind": "efficientnet_lite0"}), "tower.kind=efficientnet_lite0"),
        (Card(connector={"standardize": True}), "connector.standardize"),
        (Card(image=ImageConfig(kind="keep")), "image.kind=keep"),
        (Card(video=VideoConfig()), "images of one tile takes no videos"),
        (Card(image=ImageConfig(kind="highres", anyres=AnyresConfig(**NEXT))), "image.kind=highres"),
        (card(merge="flat"), "merge=flat"),
        (card(merge="spatial"), "merge=spatial"),
        (card(base="pad"), "base=pad"),
        (card(base="none"), "base=none"),
        (card(max_tokens=2880, merge="flat"), "max_tokens"),
        (card(max_pool=True), "max_pool"),
        (card(NEXT_VIDEO, max_tiles=9), "max_tiles"),
        (card(NEXT_VIDEO | {"stride": 3}), "stride=3: their processor counts 144"),
        (card(NEXT_VIDEO | {"stride": 1}), "stride=1"),
        (card(NEXT_VIDEO | {"pool": "bilinear"}), "pool=bilinear"),
        (card(NEXT_VIDEO | {"newline": "one_token"}), "newline=one_token"),
        (card(ONEVISION | {"newline": "grid"}), "newline=grid"),
        (card(ONEVISION | {"newline": "frame"}), "newline=frame"),
        (card(ONEVISION | {"newline": "no_token"}), "newline=no_token"),
        (card(ONEVISION | {"pool": "average"}), "pool=average"),
        (card(ONEVISION | {"stride": 4}), "stride=4"),
        (card(ONEVISION | {"kind": "pad"}), "video.kind=pad"),
        (card(ONEVISION | {"slow_fast": SlowFast()}), "slow_fast"),
    ],
)
def test_what_no_class_computes_is_named(of, word):
    fit = hf_fit(of)
    assert fit.model_type is None and len(fit.lost) == 1
    assert word in why_not_hf(of)


def test_an_odd_side_has_no_class_for_frames_pooled_first():
    """13 x 13 tokens a frame of 27 x 27 patches, where their processor counts 182."""
    image = ImageConfig(kind="anyres", size=384, grid=27, anyres=AnyresConfig(pinpoints=((384, 384),)))
    assert "182" in why_not_hf(Card(image=image, video=VideoConfig(**NEXT_VIDEO)))


@pytest.mark.parametrize(
    ("of", "model_type", "word"),
    [
        (card(rule="llava"), "llava_next", "704 x 396"),
        (card(several="pad"), "llava_next", "several images"),
        (card(ONEVISION, max_tiles=9), "llava_onevision", "flat list"),
        (card(ONEVISION | {"time_instruction": True}, several="pad"), "llava_onevision", "time_instruction"),
    ],
)
def test_what_a_class_does_otherwise_is_said_and_the_class_is_written(of, model_type, word):
    fit = hf_fit(of)
    assert fit.model_type == model_type and len(fit.lost) == 1 and word in fit.lost[0]


def grown(settings: Card):
    """A tiny model with the separators and tokens of this card."""
    ck = tiny.checkpoint()
    ck.tokenizer.add_special([VIDEO_TOKEN])  # tiny's table has three rows to spare
    model = Llava(ck.model.tower, ck.model.connector, ck.model.language, Newline(settings.separators, 48))
    return checkpoints.Checkpoint(model, ck.tokenizer, settings)


def test_what_no_class_computes_is_written_as_ours_alone(tmp_path):
    anyres = AnyresConfig(pinpoints=((28, 56), (56, 28)))
    image = ImageConfig(kind="anyres", size=28, grid=2, anyres=anyres)
    slow_fast = VideoConfig(newline="grid", slow_fast=SlowFast(every=3))
    ck = grown(Card(tower={"path": "tiny"}, image=image, video=slow_fast, template="chatml"))
    checkpoints.save(ck, tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["model_type"] == "llavakit" and "architectures" not in config
    assert not list((tmp_path / "ours").glob("*processor*"))
    back = checkpoints.load(tmp_path / "ours")
    assert back.card == ck.card and back.model.newline.names == ("image_newline", "faster_token")
    mine = ck.model.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in back.model.state_dict().items())


def test_a_layout_that_never_shrinks_becomes_a_limit_that_is_never_met(tmp_path):
    anyres = AnyresConfig(pinpoints=((28, 56), (84, 56)), rule="transformers")
    image = ImageConfig(kind="anyres", size=28, grid=2, anyres=anyres)
    ck = grown(Card(tower={"path": "tiny"}, image=image, video=VideoConfig(**ONEVISION), template="chatml"))
    checkpoints.save(ck, tmp_path / "ours")
    config = AutoConfig.from_pretrained(tmp_path / "ours")
    assert config.vision_aspect_ratio == "anyres_max_6"
    assert config.image_grid_pinpoints == [[56, 28], [56, 84]], "(height, width), in our order"
    assert config.video_token_id == ck.tokenizer.hf.get_vocab()[VIDEO_TOKEN] != config.image_token_id


def test_a_squashed_picture_stays_squashed(tmp_path):
    image = ImageConfig(kind="squash", size=28, grid=2)
    ck = grown(Card(tower={"path": "tiny"}, image=image, template="chatml"))
    checkpoints.save(ck, tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    (tmp_path / "ours/config.json").write_text(
        json.dumps({name: value for name, value in config.items() if name != "llavakit"})
    )
    assert load_card(tmp_path / "ours", "chatml").image == image


def test_a_model_for_videos_gets_a_row_for_their_token(tmp_path):
    """In a fresh model, and in one that starts from a checkpoint without; without the row nothing is written."""
    parts = tiny.checkpoint()
    parts.model.language.save_pretrained(tmp_path / "decoder")
    tiny.byte_level_tokenizer().hf.save_pretrained(tmp_path / "decoder")
    parts.model.tower.vision.save_pretrained(tmp_path / "tower")
    anyres = AnyresConfig(pinpoints=((28, 56), (56, 28)), rule="transformers")
    video = VideoConfig(**ONEVISION)
    settings = ModelConfig(
        language=LanguageConfig(path=str(tmp_path / "decoder")),
        tower={"path": str(tmp_path / "tower")},
        image=ImageConfig(kind="anyres", size=28, grid=2, anyres=anyres),
        template="chatml",
    )
    checkpoints.save(build(settings), tmp_path / "images")
    assert VIDEO_TOKEN not in checkpoints.load(tmp_path / "images").tokenizer.hf.get_vocab()
    later = ModelConfig(start=tmp_path / "images", video=video)
    for made in (build(settings.model_copy(update={"video": video})), build(later)):
        checkpoints.save(made, tmp_path / "videos")
        index = json.loads((tmp_path / "videos/config.json").read_text())["video_token_index"]
        assert made.tokenizer.hf.get_vocab()[VIDEO_TOKEN] == index
        assert index < len(made.model.language.get_input_embeddings().weight)
    old = checkpoints.load(tmp_path / "images")
    with pytest.raises(CheckpointError, match="no row for <video>"):
        checkpoints.save(
            checkpoints.Checkpoint(old.model, old.tokenizer, old.card.model_copy(update={"video": video})),
            tmp_path / "no",
        )


def test_a_stage_keeps_the_rows_that_are_trained_and_adds_what_it_needs(tmp_path):
    anyres = AnyresConfig(pinpoints=((28, 56), (56, 28)))
    image = ImageConfig(kind="anyres", size=28, grid=2, anyres=anyres)
    checkpoints.save(grown(Card(tower={"path": "tiny"}, image=tiny.IMAGE, template="chatml")), tmp_path / "1")
    second = build(ModelConfig(start=tmp_path / "1", image=image))
    assert second.model.newline.names == ("image_newline",)
    checkpoints.save(second, tmp_path / "2")
    slow_fast = VideoConfig(newline="grid", slow_fast=SlowFast())
    third = build(ModelConfig(start=tmp_path / "2", video=slow_fast)).model.newline
    assert third.names == ("image_newline", "faster_token")
    assert torch.equal(
        third.state_dict()["image_newline"], second.model.newline.state_dict()["image_newline"]
    )
