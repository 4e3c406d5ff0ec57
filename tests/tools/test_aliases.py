"""Tools of ours under names that other models learned: their arguments, their results."""

import json
import time

import PIL.Image
import PIL.ImageDraw
import pytest

from llavakit.agent.forms import FORMS, Told
from llavakit.text.calls import Call, ToolError
from llavakit.text.conversation import Text
from llavakit.text.llava_plus import action_of, read_answer, write_answer
from llavakit.tools.aliases import AliasTool
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made
from llavakit.tools.skills import ALIASES, cards_of_all, open_tools


@pytest.fixture
def desk(tmp_path):
    opened = Desk(Artifacts(tmp_path), unit="0-1000")
    for color in ("red", "blue"):
        opened.add_image(PIL.Image.new("RGB", (400, 200), color))
    return opened


class Stub:
    """A tool behind an alias: keeps what it was asked and gives what the test says."""

    def __init__(self, name, value, picture=None):
        (self.card,) = [card for card in cards_of_all() if card.name == name]
        self.asked, self._value, self._picture = [], value, picture

    def run(self, arguments, desk, *, seconds):
        self.asked.append(arguments)
        return Made(self._value, (self._picture,) if self._picture else ())

    def close(self) -> None:
        pass


FOUND = {
    "found": [{"label": "dog", "box": [0.123, 0.2, 0.5, 1.0], "confidence": 0.876}],
    "counts": {"dog": 1},
}
LINES = {"text": "A\nB", "lines": [{"text": "A", "box": [0, 0, 1, 0.666], "confidence": 0.5}] * 2}
TOLD = {"boxes": [[0.12, 0.2, 0.5, 1.0]], "logits": [0.88], "phrases": ["dog"]}
MASK = {"box": [0.111, 0, 1, 1], "mask": "txt_1"}


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
    ("name", "params", "values", "asked", "told"),
    [
        ("grounding_dino", {"caption": "a cat . dog."}, {"ground": FOUND},
         [("ground", {"words": ["a cat", "dog"], "confidence": 0.3})], TOLD),
        ("easyocr", {}, {"ocr": LINES}, [("ocr", {})], {"texts": ["A", "A"]}),
        ("ocr+boxes", {}, {"ocr": LINES}, [("ocr", {})],
         {"texts": ["A", "A"], "boxes": [[0, 0, 1, 0.67]] * 2, "scores": [0.5] * 2}),
        ("sam", {"boxes": [[0, 0, 1, 1], [0, 0, 0.5, 1]]}, {"segment": MASK},
         [("segment", {"box": [0, 0, 1, 1]}), ("segment", {"box": [0, 0, 0.5, 1]})],
         {"boxes": [[0.11, 0, 1, 1]] * 2}),
        ("sam", {"points": [[[0.1, 0.2], [0.9, 0.9]]], "point_labels": [[1, 0]]}, {"segment": MASK},
         [("segment", {"inside": [[0.1, 0.2]], "outside": [[0.9, 0.9]]})], {"boxes": [[0.11, 0, 1, 1]]}),
        ("grounding_dino+sam", {"caption": "dog"}, {"ground": FOUND, "segment": MASK},
         [("ground", {"words": ["dog"], "confidence": 0.3}), ("segment", {"box": [0.12, 0.2, 0.5, 1.0]})], TOLD),
        ("ram", {}, {"tag": {"tags": ["dog", "grass"]}}, [("tag", {})], {"tags": "dog | grass"}),
        ("ram+grounding_dino", {}, {"tag": {"tags": ["dog", "grass"]}, "ground": FOUND},
         [("tag", {}), ("ground", {"words": ["dog", "grass"], "confidence": 0.3})], TOLD | {"tags": "dog | grass"}),
        ("blip2", {}, {"caption": {"caption": "a dog."}}, [("caption", {})], {"caption": "a dog."}),
        ("blip2+grounding_dino", {}, {"caption": {"caption": "a dog."}, "ground": FOUND},
         [("caption", {}), ("ground", {"words": ["a dog"], "confidence": 0.3})], TOLD | {"caption": "a dog."}),
        ("retrieval", {}, {"alike": {"found": [{"name": "a/red dog.png", "likeness": 0.916}]}},
         [("alike", {"top": 8})], {"retrieval_results": [{"caption": "a/red dog", "similarity": 0.92}]}),
        ("sd", {"prompt": "a dog"}, {"generate": {"seed": 0}}, [("generate", {"prompt": "a dog"})],
         {"message": "The sd has processed the image."}),
        ("instruct-pix2pix", {"prompt": "make it night", "image": "x"}, {"edit": {"seed": 0}},
         [("edit", {"prompt": "make it night"})], {"message": "The instruct-pix2pix has processed the image."}),
        ("openseed", {}, {"parts": {"parts": []}}, [("parts", {})],
         {"message": "The openseed has processed the image."}),
        ("semantic_sam", {"point": [0.1, 0.2]}, {"segment": MASK},
         [("segment", {"masks": 3, "inside": [[0.1, 0.2]]})],
         {"message": "The semantic_sam has processed the image."}),
        ("semantic-sam", {"boxes": [[0, 0, 1, 1], [0, 0, 0.5, 1]]}, {"segment": MASK},
         [("segment", {"masks": 3, "box": [0, 0, 1, 1]}), ("segment", {"masks": 3, "box": [0, 0, 0.5, 1]})],
         {"message": "The semantic-sam has processed the image."}),
    ],
)  # fmt: skip
def test_the_tools_of_llava_plus_take_and_give_what_its_weights_saw(desk, name, params, values, asked, told):
    said = read_answer(write_answer("I look.", [{"API_name": name, "API_params": params}], "Just a moment."))
    (call,) = said.calls
    assert action_of(call) == {"API_name": name, "API_params": params}
    tools = {each: Stub(each, value, "img_2") for each, value in values.items()}
    made = AliasTool(ALIASES[name], tools).run(json.loads(call.arguments), desk, seconds=1)
    assert made.value == told and set(made.pictures) == {"img_2"}
    assert [(each, one) for each, tool in tools.items() for one in tool.asked] == asked


def test_what_llava_plus_keeps_in_its_server_is_the_newest_of_its_kind_on_the_desk(desk):
    paint, redraw, like = (Stub(name, {"seed": 0}) for name in ("paint", "redraw", "segment_like"))
    edges = Stub("edges", {})
    for name, tools in (("inpainting", {"paint": paint}), ("seem", {"segment_like": like})):
        given = {"prompt": "a cat"} if name == "inpainting" else {"refimg": None, "refmask": None}
        with pytest.raises(ToolError, match="call sam"):
            AliasTool(ALIASES[name], tools).run(given, desk, seconds=1)
    desk.add_text("{}", made_by="segment")
    desk.add_text("a long text", made_by="ocr")
    desk.add_image(PIL.Image.new("RGB", (9, 9)), made_by="edges")
    assert AliasTool(ALIASES["inpainting"], {"paint": paint}).run(
        {"prompt": "a cat"}, desk, seconds=1
    ).value == {"message": "The inpainting has processed the image."}
    AliasTool(ALIASES["controlnet"], {"redraw": redraw, "edges": edges}).run(
        {"prompt": "a cat"}, desk, seconds=1
    )
    AliasTool(ALIASES["seem"], {"segment_like": like}).run({}, desk, seconds=1)
    assert paint.asked == [{"prompt": "a cat", "mask": "txt_1"}]
    assert redraw.asked == [{"prompt": "a cat", "image": "img_3"}] and not edges.asked
    assert like.asked == [{"example": "img_2", "mask": "txt_1", "image": "img_1"}]


def test_without_outlines_a_picture_along_them_begins_with_drawing_them(desk):
    class Edges(Stub):
        def run(self, arguments, desk, *, seconds):
            return Made({}, (desk.add_image(PIL.Image.new("RGB", (9, 9)), made_by="edges"),))

    redraw = Stub("redraw", {"seed": 0})
    tools = {"redraw": redraw, "edges": Edges("edges", {})}
    AliasTool(ALIASES["controlnet"], tools).run({"prompt": "a cat"}, desk, seconds=1)
    assert redraw.asked == [{"prompt": "a cat", "image": "img_3"}]


def test_a_model_of_llava_plus_is_told_its_results_letter_by_letter():
    told = [
        Told(
            "call_1",
            "sd",
            '{"message": "The sd has processed the image.", "pictures": ["img_2"]}',
            {"img_2": "x"},
        )
    ]
    parts = FORMS["llava_plus"].results(told, (), "Draw a dog.")
    assert parts == (
        Text(
            "sd model outputs: {'message': 'The sd has processed the image.'}\n\n"
            "Please summarize the model outputs and answer my first question: Draw a dog."
        ),
    )


def test_an_alias_needs_its_arguments_and_its_engine(desk):
    with pytest.raises(ToolError, match="caption is missing; arguments: caption"):
        AliasTool(ALIASES["grounding_dino"], {"ground": Stub("ground", {})}).run({}, desk, seconds=1)
    with pytest.raises(ToolError, match="give either boxes, or points"):
        AliasTool(ALIASES["sam"], {"segment": Stub("segment", {})}).run({}, desk, seconds=1)
    with pytest.raises(ToolError, match="give either boxes, or a point"):
        AliasTool(ALIASES["semantic_sam"], {"segment": Stub("segment", {})}).run({}, desk, seconds=1)


def test_several_aliases_of_a_tool_share_it():
    registry = open_tools(["sd", "generation", "grounding_dino", "ram+grounding_dino"])
    tools = [tool._tools for tool in registry.tools.values()]
    assert len({id(each) for some in tools for each in some.values()}) == 3
    registry.close()
