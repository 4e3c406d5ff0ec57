"""Segmenters of a hub: tiny random ones go the same way as the real ones, with pictures, marks, masks and words."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    PreTrainedTokenizerFast,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    Sam3VideoConfig,
    Sam3VideoModel,
)  # fmt: skip

from llavakit.core.errors import ConfigError
from llavakit.studio.defaults import default_bench
from llavakit.studio.engines import Mark, Prompts
from llavakit.studio.looking import SceneView
from llavakit.studio.picture import read_picture
from llavakit.studio.scene import EditError
from llavakit.studio.segment import sam3 as sam3_module
from llavakit.studio.segment.hub import _points
from llavakit.studio.session import Session, first_scene
from tests.studio.pictures import png, scenery


def tiny_sam2(folder):
    torch.manual_seed(0)
    hiera = Sam2HieraDetConfig(
        hidden_size=12, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 2, 1, 1],
        embed_dim_per_stage=[12, 24, 48, 96], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[2],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    config = Sam2Config(
        vision_config=Sam2VisionConfig(
            backbone_config=hiera, backbone_channel_list=[96, 48, 24, 12], fpn_hidden_size=32,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        ),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    Sam2Model(config).eval().save_pretrained(folder)
    return str(folder)


TEXT = {
    "vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip


def tiny_sam3(folder):
    """As facebook/sam3: one directory for the detector, which knows words, and the tracker, which knows marks."""
    torch.manual_seed(0)
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
            "global_attn_indexes": [1], "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }  # fmt: skip
    part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_layers": 1}
    detector = {
        "model_type": "sam3", "vision_config": vision, "text_config": {**TEXT, "projection_dim": 16},
        "geometry_encoder_config": part, "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "patch_size": 14},
        "mask_decoder_config": {
            "hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
        "image_size": 56,
    }  # fmt: skip
    config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker)
    Sam3VideoModel(config).eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def tokenizer():
    words = {word: number for number, word in enumerate(("<start>", "<end>", "a", "red", "disc", "<unk>"))}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<start>", eos_token="<end>", unk_token="<unk>", pad_token="<end>"
    )


def tiny_clipseg(folder):
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = CLIPSegConfig(
        text_config=TEXT, vision_config=vision, projection_dim=16, reduce_dim=8, extract_layers=[0, 1],
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return {"sam2": tiny_sam2(folder / "sam2"), "clipseg": tiny_clipseg(folder / "clipseg")}


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    return default_bench(sam3=tiny_sam3(tmp_path_factory.mktemp("sam3"))).segmenter("sam3")


def view():
    return SceneView(first_scene(read_picture(png(scenery()))))


def test_sam2_takes_clicks_strokes_a_box_and_the_mask_before(weights):
    sam, seen = default_bench(**weights).segmenter("sam2"), view()
    click, stroke = Mark(((100, 100),), 1.0, True), Mark(tuple((9.0 * i, 20.0) for i in range(9)), 5.0, False)
    first = sam.segment(seen, Prompts((click,)))
    assert 1 <= len(first) <= 3 and [each.score for each in first] == sorted(
        (f.score for f in first), reverse=True
    )
    assert all(each.mask.shape[1] <= 300 and each.mask.shape[0] <= 270 for each in first)
    before = np.uint8(255) * np.eye(270, 300, dtype=np.uint8)
    assert len(sam.segment(seen, Prompts((click, stroke), before=before))) <= 1
    assert sam.segment(seen, Prompts(box=(10, 10, 90, 80)))
    with pytest.raises(EditError, match="not words"):
        sam.segment(seen, Prompts(text="cat"))


def test_a_stroke_gives_sam_three_points_that_lie_apart():
    stroke = Mark(tuple((float(i), 0.0) for i in range(100)), 5.0, True)
    points, labels = _points([stroke, Mark(((5, 5),), 1.0, False)])
    assert [x for x, _ in points] == [16, 50, 83, 5] and labels == [1, 1, 1, 0]


def test_clipseg_takes_words(weights):
    words, seen = default_bench(**weights).segmenter("clipseg"), view()
    try:
        (found,) = words.segment(seen, Prompts(text="a red disc"))
        assert found.name == "a red disc" and found.mask.any()
    except EditError as error:
        assert "nothing like 'a red disc'" in str(error)
    with pytest.raises(EditError, match="words only"):
        words.segment(seen, Prompts((Mark(((1, 1),), 1.0, True),)))


def test_sam3_takes_marks_and_words(sam3, monkeypatch):
    seen, click = view(), Mark(((100, 100),), 1.0, True)
    first = sam3.segment(seen, Prompts((click,)))
    assert 1 <= len(first) <= 3 and first[0].name == "object"
    before = np.uint8(255) * np.eye(270, 300, dtype=np.uint8)
    assert len(sam3.segment(seen, Prompts((click, click), text="a disc", before=before))) <= 1
    monkeypatch.setattr(sam3_module, "SURE", 0.0)
    named = sam3.segment(seen, Prompts(text="a red disc"))
    assert 1 <= len(named) <= 3 and {each.name for each in named} == {"a red disc"}
    assert [each.score for each in named] == sorted((each.score for each in named), reverse=True)
    monkeypatch.setattr(sam3_module, "SURE", 1.0)
    with pytest.raises(EditError, match="nothing like 'a red disc'"):
        sam3.segment(seen, Prompts(text="a red disc"))


def test_the_document_asks_the_engine_that_is_named(weights):
    session = Session.create(None, png(scenery()), default_bench(**weights))
    session.apply({"do": "select", "points": [[120, 130, True]]})
    said = session.describe()["selection"]
    assert {each["name"] for each in said["candidates"]} == {"object"}
    session.apply({"do": "select", "points": [[20, 30, False]], "how": "refine"})
    assert len(session.describe()["selection"]["prompts"]) == 2


def test_what_is_not_there_says_how_to_get_it(tmp_path):
    bench = default_bench()
    lacks = {card["name"]: card["lacks"] for card in bench.cards()}
    assert "facebook/sam2" in lacks["sam2"] and lacks["classical"] is None and lacks["patchmatch"] is None
    with pytest.raises(EditError, match="sam2 is not here: name its weights"):
        bench.segmenter("sam2")
    with pytest.raises(ConfigError, match="gone"):
        default_bench(sam2=str(tmp_path / "gone")).segmenter()
    with pytest.raises(ConfigError, match="unknown engine to segment: 'sam9'"):
        bench.segmenter("sam9")
