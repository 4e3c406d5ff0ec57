"""Tools with weights of the hub: tiny random models of the same kinds go through the same functions."""

import json
import sys
import time

import numpy as np
import PIL.Image
import pytest
import torch
import transformers as hf
from skimage import data

from llavakit.core.errors import ConfigError
from llavakit.text.calls import Call, ToolError, ToolUnavailable
from llavakit.tools import hub_models, sam
from llavakit.tools.arguments import Picture, Point, Region
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.opencv import region
from llavakit.tools.skills import SKILLS, open_tools
from tests.tools import tiny_hub

CAT = Picture("img_1", data.chelsea())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module", params=["owlv2", "grounding_dino"])
def detector(request, folder):
    save = {"owlv2": tiny_hub.save_owlv2, "grounding_dino": tiny_hub.save_grounding_dino}[request.param]
    save(folder / request.param)
    return str(folder / request.param)


def test_what_words_name_is_found_where_the_model_itself_puts_it(detector):
    """Boxes as the processor of `transformers` gives them for the same picture and words."""
    value = hub_models.ground(CAT, ["Cat", "red dog"], 0.01, model=detector).value
    assert sum(value["counts"].values()) == len(value["found"]) > 0
    assert {one["label"] for one in value["found"]} <= {"cat", "red dog"}
    processor = hf.AutoProcessor.from_pretrained(detector)
    net = hf.AutoModelForZeroShotObjectDetection.from_pretrained(detector).eval()
    inputs = processor(
        images=PIL.Image.fromarray(CAT.pixels_HW3), text=[["cat", "red dog"]], return_tensors="pt"
    )
    with torch.inference_mode():
        outputs = net(**inputs)
    (theirs,) = processor.image_processor.post_process_object_detection(
        outputs, 0.0, [CAT.pixels_HW3.shape[:2]]
    )
    there = {region(box.numpy(), CAT.size) for box in theirs["boxes"]}
    assert {one["box"] for one in value["found"]} <= there
    with pytest.raises(ToolError, match="empty"):
        hub_models.ground(CAT, ["cat", " . "], model=detector)


def test_every_phrase_has_the_best_of_its_tokens(folder):
    (folder / "words").mkdir()
    tokenizer = tiny_hub.bert_words(folder / "words")
    ids = tokenizer("cat. red dog.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "cat", ".", "red", "dog", ".", "[SEP]"]
    scores = np.array([[9, 0.1, 9, 0.2, 0.7, 9, 9], [9, 0.6, 9, 0.3, 0.1, 9, 9]])
    assert hub_models._of_phrases(scores, ids, tokenizer).tolist() == [[0.1, 0.7], [0.6, 0.3]]


def test_a_mask_is_as_large_as_the_picture(folder):
    tiny_hub.save_sam2(folder / "sam2")
    for prompt in (
        {"box": Region(100, 50, 300, 250)},
        {"inside": (Point(150, 150),), "outside": (Point(5, 5),)},
    ):
        answer = hub_models.segment(CAT, **prompt, model=str(folder / "sam2"))
        assert answer.value["mask"].inside_HW.shape == CAT.pixels_HW3.shape[:2]
    with pytest.raises(ToolError, match="say what to select"):
        hub_models.segment(CAT, model=str(folder / "sam2"))


def test_a_point_may_mean_several_things_and_words_need_a_model_that_knows_them(folder, monkeypatch):
    sam2, sam3 = tiny_hub.save_sam2(folder / "sam2_more"), tiny_hub.save_sam3(folder / "sam3")
    point = {"inside": (Point(150, 150),)}
    looked = []
    look = sam.SamMarks.look
    monkeypatch.setattr(sam.SamMarks, "look", lambda self, rgb: looked.append(rgb) or look(self, rgb))
    answer = hub_models.segment(CAT, **point, masks=3, model=sam2)
    all_masks = [answer.value, *answer.value["others"]]
    assert len(all_masks) == len(answer.pictures) == 3
    assert len({each["mask"].inside_HW.tobytes() for each in all_masks}) == 3
    assert [each["confidence"] for each in all_masks] == sorted(
        (e["confidence"] for e in all_masks), reverse=True
    )
    assert "others" not in hub_models.segment(CAT, **point, model=sam2).value
    assert len(looked) == 1, "a picture is looked at once"
    assert (
        hub_models.segment(CAT, **point, model=sam3).value["mask"].inside_HW.shape == CAT.pixels_HW3.shape[:2]
    )
    with pytest.raises(ToolError, match="knows no words: find the thing with ground"):
        hub_models.segment(CAT, words="a cat", model=sam2)
    with pytest.raises(ToolError, match="either in words, or by a box"):
        hub_models.segment(CAT, **point, words="a cat", model=sam3)
    with pytest.raises(ToolUnavailable, match=r"unknown model_type of .*'blip'"):
        tiny_hub.save_blip(folder / "no_sam")
        hub_models.segment(CAT, **point, model=str(folder / "no_sam"))


def test_words_select_every_instance_that_is_sure_enough(folder, monkeypatch):
    model = tiny_hub.save_sam3(folder / "sam3_words")
    monkeypatch.setattr(sam, "SURE_NAMED", 0.0)
    answer = hub_models.segment(CAT, words="a red disc", masks=20, model=model)
    assert 1 <= len(answer.pictures) <= 5 and answer.value["mask"].inside_HW.any()
    monkeypatch.setattr(sam, "SURE_NAMED", 1.0)
    with pytest.raises(ToolError, match="nothing was found"):
        hub_models.segment(CAT, words="a red disc", model=model)


def test_the_parts_of_a_picture_cover_it_in_a_color_each(folder):
    model = tiny_hub.save_upernet(folder / "upernet")
    answer = hub_models.parts(CAT, model=model)
    found, [drawn] = answer.value["parts"], answer.pictures
    assert len(found) > 1 and sum(part["percent"] for part in found) == pytest.approx(100, abs=0.1)
    assert {part["label"] for part in found} <= {"wall", "sky", "tree", "road", "person"}
    colors, counts = np.unique(drawn.pixels_HW3.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colors) == len(found) and drawn.pixels_HW3.shape == CAT.pixels_HW3.shape
    shares = sorted(100 * counts / counts.sum(), reverse=True)
    assert shares == pytest.approx([part["percent"] for part in found], abs=0.01)


@pytest.mark.parametrize("save", [tiny_hub.save_blip, tiny_hub.save_blip2])
def test_a_picture_has_one_caption_and_a_box_of_it_another(folder, save):
    model = folder / save.__name__
    save(model)
    whole = hub_models.caption(CAT, model=str(model)).value["caption"]
    part = hub_models.caption(CAT, Region(0, 0, 60, 60), model=str(model)).value["caption"]
    assert whole and part and whole != part


def test_a_collection_is_searched_in_a_process_of_its_own_and_shows_what_it_found(folder, tmp_path):
    tiny_hub.save_siglip(folder / "siglip")
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    for name, pixels in {
        "cat.png": data.chelsea(),
        "below/cup.jpg": data.coffee(),
        "same.png": data.chelsea(),
    }.items():
        PIL.Image.fromarray(pixels).save(photos / name)
    (photos / "broken.png").write_bytes(b"no picture")
    registry = open_tools(["search"], {"search": {"model": str(folder / "siglip"), "folder": str(photos)}})
    desk = Desk(Artifacts(tmp_path / "art"))
    try:
        result = registry.call(
            Call("search", '{"words": "cat", "top": 3}'), desk, deadline=time.monotonic() + 120
        )
    finally:
        registry.close()
    found = result.value["found"]
    assert result.value["pictures_in_all"] == 3 and len(result.pictures) == 3
    assert {one["name"] for one in found} == {"cat.png", "below/cup.jpg", "same.png"}
    likeness = {one["name"]: one["likeness"] for one in found}
    assert likeness["cat.png"] == likeness["same.png"] != likeness["below/cup.jpg"]
    assert "model" not in json.dumps(registry.cards[0].parameters)


def test_a_picture_finds_itself_first_with_faiss_and_without(folder, tmp_path, monkeypatch):
    tiny_hub.save_siglip(folder / "alike")
    model = str(folder / "alike")
    for name, pixels in {"cat.png": data.chelsea(), "cup.png": data.coffee()}.items():
        PIL.Image.fromarray(pixels).save(tmp_path / name)
    cup = Picture("img_1", data.coffee())
    with_faiss = hub_models.alike(cup, 2, model=model, folder=str(tmp_path))
    assert [one["name"] for one in with_faiss.value["found"]] == ["cup.png", "cat.png"]
    assert with_faiss.value["found"][0]["likeness"] == pytest.approx(1, abs=1e-4)
    hub_models._index.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = hub_models.alike(cup, 2, model=model, folder=str(tmp_path))
    for one, other in zip(with_faiss.value["found"], without.value["found"], strict=True):
        assert one["name"] == other["name"] and one["likeness"] == pytest.approx(other["likeness"], abs=2e-4)
    hub_models._index.cache_clear()


def test_tags_are_words_of_the_list_the_surest_first(folder):
    tiny_hub.save_siglip(folder / "tags")
    value = hub_models.tag(CAT, ["cat", "dog", "cat"], 0.001, model=str(folder / "tags")).value
    assert sorted(value["tags"]) == ["cat", "dog"]
    scores = [one["confidence"] for one in value["found"]]
    assert scores == sorted(scores, reverse=True)
    assert hub_models.tag(CAT, ["cat"], 1.0, model=str(folder / "tags")).value["tags"] == []


def test_weights_that_are_not_there_are_told_with_their_name():
    with pytest.raises(ToolUnavailable, match="no/such cannot be opened"):
        hub_models.caption(CAT, model="no/such")


def test_they_are_there_when_they_are_named_and_say_what_they_need():
    named_only = {name for name, skill in SKILLS.items() if skill.settings}
    registry = open_tools()
    hub = {"ground", "segment", "segment_like", "parts", "caption", "search", "alike", "tag"}
    assert named_only == hub | {"generate", "edit", "paint", "redraw"} and not named_only & set(
        registry.tools
    )
    with pytest.raises(ConfigError, match="search needs folder"):
        open_tools(["search"])
    with pytest.raises(ConfigError, match="segment_like needs url"):
        open_tools(["seem"])
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        open_tools(["ground"], {"ground": {"modle": "x"}})
