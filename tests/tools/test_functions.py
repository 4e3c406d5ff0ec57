"""Functions as tools: what a model writes reaches them checked and in pixels, and their pictures come back."""

import json
import time

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.text.calls import Call, Result
from llavakit.tools.artifacts import Artifacts, open_image
from llavakit.tools.desk import Desk
from llavakit.tools.skills import open_tools
from llavakit.vision.rle import decode_rle


@pytest.fixture(scope="module")
def registry():
    opened = open_tools()
    yield opened
    opened.close()


@pytest.fixture
def desk(tmp_path):
    return Desk(Artifacts(tmp_path))


def ask(registry, desk, name, **arguments) -> Result:
    return registry.call(Call(name, json.dumps(arguments)), desk, deadline=time.monotonic() + 30)


def ramp(width: int, height: int) -> PIL.Image.Image:
    """Every pixel says where it is."""
    y, x = np.mgrid[:height, :width]
    return PIL.Image.fromarray(np.stack([x % 256, y % 256, x // 256 + y // 256 * 16], 2).astype(np.uint8))


def pixels(desk, name) -> np.ndarray:
    return np.asarray(open_image(desk.find(name)))


def test_a_crop_is_the_pixels_of_the_box_in_every_unit(registry, desk, tmp_path):
    whole = ramp(400, 200)
    for unit, box in {
        "px": [100, 50, 300, 150],
        "0-1": [0.25, 0.25, 0.75, 0.75],
        "0-1000": [250] * 2 + [750] * 2,
    }.items():
        desk = Desk(Artifacts(tmp_path / unit), unit=unit)
        desk.add_image(whole)
        result = ask(registry, desk, "crop", image="img_1", box=box)
        assert (result.error, result.pictures) == (None, ("img_2",))
        assert (pixels(desk, "img_2") == np.asarray(whole)[50:150, 100:300]).all()


def test_zoom_into_a_zoom_is_cut_from_the_original(registry, desk):
    whole = ramp(2000, 1000)
    desk.unit = "px"
    desk.add_image(whole)
    first = ask(registry, desk, "zoom", box=[1000, 500, 1100, 600], side=400)
    assert first.value == {"picture": "img_1", "unit": "px", "box": [1000, 500, 1100, 600], "scale": 4.0}
    second = ask(registry, desk, "zoom", image="img_2", box=[200, 200, 300, 240], side=40)
    assert second.value["picture"] == "img_1" and second.value["box"] == [1050, 550, 1075, 560]
    third = ask(registry, desk, "crop", image="img_1", box=[1050, 550, 1075, 560])
    assert abs(pixels(desk, "img_3").mean((0, 1)) - pixels(desk, third.pictures[0]).mean((0, 1))).max() < 3


def test_a_box_too_small_to_see_is_grown_inside_the_picture(registry, desk):
    desk.unit = "px"
    desk.add_image(ramp(100, 60))
    assert ask(registry, desk, "zoom", box=[99, 59, 100, 60]).value["box"] == [92, 52, 100, 60]
    assert "covers nothing of img_1" in ask(registry, desk, "zoom", box=[200, 0, 300, 10]).error


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("crop", {}, "box: field required"),
        ("crop", {"box": [1, 2, 3]}, "at least 4 items"),
        ("crop", {"box": [0, 0, 1, 1], "size": 3}, "size: extra inputs"),
        ("crop", {"box": [0, 0, 1, 1], "image": "img_7"}, "there is no 'img_7' here"),
        ("crop", {"box": [0, 0, 1, 1], "image": "../../etc/passwd"}, "there is no"),
        ("crop", {"box": [0, 0, 1e300, 1]}, "less than or equal"),
        ("blur", {"boxes": []}, "no box was given"),
        ("measure", {"points": [[0, 0]]}, "at least two points"),
        ("measure", {"points": [[0, 0], [2, 2]]}, "outside of img_1"),
        ("count_shapes", {"color": "mauve"}, "there are: black"),
        ("find_pattern", {"box": [0, 0, 0.01, 0.01]}, "nothing to look for"),
        ("calculate", {"expression": "__import__('os')"}, "unknown name '__import__'"),
        ("calculate", {"expression": "9**9**9"}, "too many digits"),
        ("calculate", {"expression": "1/0"}, "division by zero"),
        ("table", {"text": "a,b\n1,2", "column": "c"}, "there are: a, b"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(registry, desk, name, arguments, says):
    desk.add_image(PIL.Image.new("RGB", (64, 64), "white"))
    result = ask(registry, desk, name, **arguments)
    assert says in str(result.error) and len(result.error) < 400
    assert desk.pictures() == ["img_1"]


def test_without_a_picture_a_call_says_so(registry, desk):
    assert "no picture here" in ask(registry, desk, "crop", box=[0, 0, 1, 1]).error


def smooth_shapes(colors: list[str]) -> PIL.Image.Image:
    """Small shapes on white with soft edges, as drawings have them that were made smaller."""
    side, large = 64, PIL.Image.new("RGB", (64 * 8 * len(colors), 64 * 8 * 3), "white")
    draw = PIL.ImageDraw.Draw(large)
    for column, color in enumerate(colors):
        for row, size in enumerate((18, 26, 34)):
            left, top = (side * column + 10) * 8, (side * row + 10) * 8
            box = (left, top, left + size * 8, top + size * 8)
            if (row + column) % 3 == 0:
                draw.ellipse(box, fill=color)
            elif (row + column) % 3 == 1:
                draw.polygon(
                    [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=color
                )
            else:
                draw.rectangle(box, fill=color)
    return large.resize((large.width // 8, large.height // 8), PIL.Image.Resampling.BICUBIC)


@pytest.mark.parametrize("blur", [0, 1, 1.5])
def test_the_soft_rim_of_a_shape_is_not_another_shape(registry, desk, blur):
    drawn = smooth_shapes(["black", "red", "#0000c8", "#008000", "#808000", "#400080"])
    desk.add_image(drawn.filter(PIL.ImageFilter.GaussianBlur(blur)))
    value = ask(registry, desk, "count_shapes").value
    assert value["count"] == 18
    assert value["by_color"]["black"] == value["by_color"]["red"] == 3
    assert "gray" not in value["by_color"] and "pink" not in value["by_color"]


def test_an_outline_and_a_frame_of_another_color_are_shapes(registry, desk):
    picture = PIL.Image.new("RGB", (200, 100), "white")
    draw = PIL.ImageDraw.Draw(picture)
    draw.ellipse((5, 5, 30, 30), outline="gray", width=3)  # touches nothing
    draw.rectangle(
        (100, 20, 150, 70), fill="blue", outline="red", width=4
    )  # red is no mixture of blue and white
    desk.add_image(picture)
    assert ask(registry, desk, "count_shapes").value["by_color"] == {"blue": 1, "gray": 1, "red": 1}


def test_shapes_are_counted_by_color_and_place(registry, desk):
    picture = PIL.Image.new("RGB", (600, 400), "white")
    for left, top, color in [(20, 20, "red"), (120, 30, "red"), (300, 200, "blue"), (500, 300, "green")]:
        picture.paste(color, (left, top, left + 40, top + 50))
    desk.unit = "px"
    desk.add_image(picture)
    value = ask(registry, desk, "count_shapes").value
    assert (value["count"], value["by_color"], value["background"]) == (
        4,
        {"blue": 1, "green": 1, "red": 2},
        "white",
    )
    assert value["shapes"][0]["box"] == [20, 20, 60, 70]
    assert ask(registry, desk, "count_shapes", color="red").value["count"] == 2
    assert ask(registry, desk, "count_shapes", box=[280, 0, 600, 400]).value["shapes"][0]["box"] == [
        300,
        200,
        340,
        250,
    ]
    shares = ask(registry, desk, "colors", box=[300, 200, 340, 250]).value
    assert shares["percent"] == {"blue": 100.0} and shares["mean"] == "#0000ff"
    found = ask(registry, desk, "find_pattern", box=[15, 15, 65, 75]).value
    assert [one["box"] for one in found["found"][:2]] == [[15, 15, 65, 75], [115, 25, 165, 85]]


def test_distances_and_angles_are_those_of_geometry(registry, desk):
    desk.unit = "px"
    desk.add_image(PIL.Image.new("RGB", (100, 100)))
    value = ask(registry, desk, "measure", points=[[0, 0], [30, 40], [30, 90]]).value
    assert value["pixels"] == [50, 50] and value["total_pixels"] == 100
    assert ask(registry, desk, "measure", points=[[0, 10], [0, 0], [10, 0]]).value["degrees"] == [90]


def test_turning_four_times_is_no_turn_and_half_a_turn_fits(registry, desk):
    desk.add_image(ramp(30, 20))
    for number in range(1, 5):
        ask(registry, desk, "rotate", image=f"img_{number}", degrees=90)
    assert (pixels(desk, "img_5") == pixels(desk, "img_1")).all()
    assert pixels(desk, "img_2").shape == (30, 20, 3)
    ask(registry, desk, "rotate", image="img_1", degrees=45)
    assert pixels(desk, "img_6").shape[:2] == (36, 36)


def test_what_is_blurred_is_gone_and_the_rest_is_as_it_was(registry, desk):
    desk.unit = "px"
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    desk.add_image(PIL.Image.fromarray(noise))
    for how in ("blur", "pixelate", "black"):
        name = ask(registry, desk, "blur", boxes=[[50, 40, 150, 140]], how=how, margin=0).pictures[0]
        made = pixels(desk, name).astype(int)
        inside = np.zeros((200, 300), bool)
        inside[40:140, 50:150] = True
        assert (made[~inside] == noise[~inside]).all()
        fine = np.abs(np.diff(made[40:140, 50:150], axis=1)).mean()
        assert fine < 10, how  # the noise itself has 85


def test_codes_are_read_where_they_are(registry, desk):
    import zxingcpp

    code = np.asarray(
        zxingcpp.create_barcode("https://llava.example/1", zxingcpp.BarcodeFormat.QRCode).to_image(scale=4)
    )
    picture = PIL.Image.new("RGB", (400, 300), "white")
    picture.paste(PIL.Image.fromarray(code).convert("RGB"), (200, 100))
    desk.unit = "px"
    desk.add_image(picture)
    (found,) = ask(registry, desk, "read_codes").value["codes"]
    assert found["text"] == "https://llava.example/1" and "QR" in found["format"]
    left, top, right, bottom = found["box"]
    assert 200 <= left < right <= 200 + code.shape[1] and 100 <= top < bottom <= 100 + code.shape[0]
    assert ask(registry, desk, "read_codes", box=[0, 0, 150, 100]).value == {"count": 0, "codes": []}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14),
        ("(1+2)^10", 59049),
        ("sqrt(2)*2", 2**1.5),
        ("7 // 2 - 7 % 4", 0),
        ("−3 × 4", -12),
        ("2**-1", 0.5),
    ],
)
def test_expressions_are_computed(registry, desk, expression, value):
    assert ask(registry, desk, "calculate", expression=expression).value == {"value": value}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789+-*/().%^ sqrtpie_,[]'\"=:x", max_size=40))
def test_no_text_makes_the_calculator_stumble(text):
    from llavakit.text.calls import ToolError
    from llavakit.tools.reckoning import calculate

    try:
        value = calculate(text).value["value"]
    except ToolError:
        return
    assert isinstance(value, int | float)


def test_tables_are_reckoned_by_column(registry, desk):
    rows = [
        "city | people | area",
        "---|---|---",
        "Ulm | 126,000 | 118",
        "Bonn | 331,000 | 141",
        "Oz | n/a | 1",
    ]
    text = "".join(f"| {row} |\n" for row in rows)
    people = ask(registry, desk, "table", text=text, column="People").value
    assert people == {"value": 457000, "rows": 3, "without_number": 1}
    assert ask(registry, desk, "table", text=text, column="people", operation="max").value["row"] == "Bonn"
    assert (
        ask(registry, desk, "table", text=text, column="area", operation="sum", where="city=ulm").value[
            "value"
        ]
        == 118
    )
    order = ask(registry, desk, "table", text="a,b\nx,$3\ny,20%", column="b", operation="sort").value["order"]
    assert order == [{"row": "y", "value": 20}, {"row": "x", "value": 3}]


def test_the_cards_say_everything_a_caller_needs(registry):
    for card in registry.cards:
        assert len(card.description) > 30 and card.parameters["type"] == "object"
        assert card.parameters["additionalProperties"] is False
        for name, told in card.parameters["properties"].items():
            assert "type" in told or "enum" in told or "anyOf" in told, (card.name, name)
            assert "{unit}" not in json.dumps(registry.cards_for("0-1000")[0].parameters)
    crop = next(card for card in registry.cards_for("0-1000") if card.name == "crop")
    assert "from 0 to 1000" in crop.parameters["properties"]["box"]["description"]
    assert crop.parameters["required"] == ["box"]


def test_a_thing_is_selected_by_a_box_or_a_point_and_taken_away(registry, desk):
    noise = np.random.default_rng(0).normal(0, 6, (300, 400, 3))
    ground = np.clip(np.array([90, 150, 90]) + noise, 0, 255).astype(np.uint8)
    picture = PIL.Image.fromarray(ground)
    draw = PIL.ImageDraw.Draw(picture)
    draw.ellipse((150, 100, 249, 179), fill=(200, 60, 50))
    desk.unit = "px"
    desk.add_image(picture)
    y, x = np.mgrid[:300, :400]
    truth = ((x - 199.5) / 50) ** 2 + ((y - 139.5) / 40) ** 2 <= 1
    for how in ({"box": [130, 80, 270, 200]}, {"inside": [[200, 140]], "outside": [[20, 20]]}):
        value = ask(registry, desk, "select", **how).value
        said = json.loads(desk.find(value["mask"], "text").path.read_text())
        mask = decode_rle(said["size"], said["counts"])
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9, how
    result = ask(registry, desk, "inpaint", mask=value["mask"], grow=3)
    made = pixels(desk, result.pictures[0]).astype(int)
    assert np.abs(made[truth].mean(0) - [90, 150, 90]).max() < 12
    assert (made[:80] == ground[:80]).all()
    desk.add_image(PIL.Image.new("RGB", (10, 10)))
    wrong = ask(registry, desk, "inpaint", image=desk.pictures()[-1], mask=value["mask"])
    assert "400 x 300, not as large as" in wrong.error
    assert "at most 40 %" in ask(registry, desk, "inpaint", boxes=[[0, 0, 400, 300]]).error
    assert "say what to select" in ask(registry, desk, "select").error
    assert "of kind image, not text" in ask(registry, desk, "inpaint", mask="img_1").error


def test_a_texture_goes_on_through_a_hole_and_a_smooth_fill_does_not(registry, desk):
    desk.unit = "px"
    stripes = np.repeat(np.arange(160)[None, :] // 4 % 2 * 200, 120, axis=0).astype(np.uint8)
    desk.add_image(PIL.Image.fromarray(np.stack([stripes] * 3, axis=2)))
    hole = {"boxes": [[60, 40, 92, 72]], "grow": 0}
    textured, smooth = (
        pixels(desk, ask(registry, desk, "inpaint", **hole, how=how).pictures[0])
        for how in ("texture", "smooth")
    )
    missed = [
        float(np.abs(made[40:72, 60:92, 0].astype(int) - stripes[40:72, 60:92]).mean())
        for made in (textured, smooth)
    ]
    assert missed[0] < 10 < 40 < missed[1]


def test_marks_are_drawn_at_the_boxes_and_nowhere_else(registry, desk):
    desk.unit = "px"
    desk.add_image(PIL.Image.new("RGB", (300, 200), "white"))
    result = ask(registry, desk, "mark", boxes=[[50, 60, 150, 160], [280, 0, 300, 20]], labels=["cat", "dog"])
    made = pixels(desk, result.pictures[0])
    assert (made[60, 50:150] != 255).any(axis=1).all() and (made[100, 60:140] == 255).all()
    assert (made[165:] == 255).all() and (made[:40, :200] == 255).all()
    assert "2 boxes and 1 labels" in ask(registry, desk, "mark", boxes=[[0, 0, 9, 9]] * 2, labels=["x"]).error
