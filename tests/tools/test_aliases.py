"""Tools of ours under names that other models learned: their arguments, their results."""

import json
import time

import PIL.Image
import PIL.ImageDraw
import pytest

from llavakit.text.calls import Call, ToolError
from llavakit.text.llava_plus import action_of, read_answer, write_answer
from llavakit.tools.aliases import ALIASES, AliasTool
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made
from llavakit.tools.skills import open_tools


@pytest.fixture
def desk(tmp_path):
    opened = Desk(Artifacts(tmp_path), unit="0-1000")
    for color in ("red", "blue"):
        opened.add_image(PIL.Image.new("RGB", (400, 200), color))
    return opened


class Behind:
    """The tool behind an alias: keeps what it was asked and gives what the test says."""

    def __init__(self, alias, value):
        (self.card,) = open_tools([ALIASES[alias].target]).cards
        self.asked, self._value = None, value

    def run(self, arguments, desk, *, seconds):
        self.asked = arguments
        return Made(self._value, ("img_3",))

    def close(self) -> None:
        pass


def test_the_zoom_of_models_that_think_with_images(desk):
    registry = open_tools(["image_zoom_in_tool"])
    try:
        said = '{"bbox_2d": [0, 0, 500, 500], "label": "corner", "img_idx": 1}'
        result = registry.call(Call("image_zoom_in_tool", said), desk, deadline=time.monotonic() + 30)
        assert (
            result.error is None
            and result.value["picture"] == "img_2"
            and result.value["box"] == [0, 0, 500, 500]
        )
        for wrong, says in [
            ('{"label": "x"}', "bbox_2d is missing"),
            ('{"bbox_2d": [0, 0, 1, 1], "img_idx": 3}', "there are 3 pictures, counted from 0"),
            ('{"bbox_2d": [0, 0, 1, 1], "img_idx": "a"}', "counted from 0"),
            ('{"bbox_2d": "all"}', "box: input should be a valid list"),
            ('{"bbox_2d": [0, 0, 1, 1], "box": 1}', "box is unknown; arguments: bbox_2d, label, img_idx"),
        ]:
            failed = registry.call(Call("image_zoom_in_tool", wrong), desk, deadline=time.monotonic() + 30)
            assert says in failed.error
    finally:
        registry.close()
    (card,) = registry.cards_for("0-1000")
    assert "0 to 1000" in card.parameters["properties"]["bbox_2d"]["description"]


@pytest.mark.parametrize(
    ("name", "params", "asked", "value", "told"),
    [
        (
            "grounding_dino", {"caption": "a cat . dog."}, {"words": ["a cat", "dog"]},
            {"found": [{"label": "dog", "box": [0.123, 0.2, 0.5, 1.0], "confidence": 0.876}], "counts": {"dog": 1}},
            {"boxes": [[0.12, 0.2, 0.5, 1.0]], "logits": [0.88], "phrases": ["dog"]},
        ),
        (
            "easyocr", {}, {}, {"text": "A\nB", "lines": [{"text": "A", "box": [0, 0, 1, 1], "confidence": 1}] * 2},
            {"texts": ["A", "A"]},
        ),
        (
            "ocr+boxes", {}, {}, {"lines": [{"text": "A", "box": [0, 0, 1, 0.666], "confidence": 0.5}]},
            {"texts": ["A"], "boxes": [[0, 0, 1, 0.67]], "scores": [0.5]},
        ),
    ],
)  # fmt: skip
def test_the_tools_of_llava_plus_take_and_give_what_its_weights_saw(desk, name, params, asked, value, told):
    said = read_answer(write_answer("I look.", [{"API_name": name, "API_params": params}], "Just a moment."))
    (call,) = said.calls
    assert action_of(call) == {"API_name": name, "API_params": params}
    behind = Behind(name, value)
    assert AliasTool(ALIASES[name], behind).run(json.loads(call.arguments), desk, seconds=1) == Made(
        told, ("img_3",)
    )
    assert behind.asked == asked


def test_an_alias_needs_its_arguments(desk):
    with pytest.raises(ToolError, match="caption is missing; arguments: caption"):
        AliasTool(ALIASES["grounding_dino"], Behind("grounding_dino", {})).run({}, desk, seconds=1)
