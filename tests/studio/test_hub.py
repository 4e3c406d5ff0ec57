"""Segmenters of a hub: tiny random ones go the same way as the real ones, with pictures, marks, masks and words."""

import numpy as np
import pytest
import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from llavakit.core.errors import ConfigError
from llavakit.studio.defaults import default_bench
from llavakit.studio.engines import Mark, Prompts
from llavakit.studio.looking import SceneView
from llavakit.studio.picture import read_picture
from llavakit.studio.scene import EditError
from llavakit.studio.segment.hub import _points
from llavakit.studio.session import Session, first_scene
from llavakit.tools import sam
from tests.studio.pictures import png, scenery
from tests.tools.tiny_hub import TEXT, few_words, save_sam2, save_sam3


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
    few_words().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return {"sam2": save_sam2(folder / "sam2"), "clipseg": tiny_clipseg(folder / "clipseg")}


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    return default_bench(sam3=save_sam3(tmp_path_factory.mktemp("sam3"))).segmenter("sam3")


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
    monkeypatch.setattr(sam, "SURE_NAMED", 0.0)
    named = sam3.segment(seen, Prompts(text="a red disc"))
    assert 1 <= len(named) <= 3 and {each.name for each in named} == {"a red disc"}
    assert [each.score for each in named] == sorted((each.score for each in named), reverse=True)
    monkeypatch.setattr(sam, "SURE_NAMED", 1.0)
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
