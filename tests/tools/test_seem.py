"""A thing of one picture found in another, by a server that stands for SEEM."""

import json
import time

import PIL.Image
import PIL.ImageDraw
import pytest

from llavakit.text.calls import Call
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.skills import open_tools
from tests.tools.engines_http import engines

AREA = {"box": [0.2, 0.2, 0.45, 0.7]}


@pytest.fixture(scope="module")
def url():
    with engines() as found:
        yield found


def picture(color, box):
    drawn = PIL.Image.new("RGB", (80, 40), "white")
    PIL.ImageDraw.Draw(drawn).rectangle(box, color)
    return drawn


@pytest.fixture
def desk(tmp_path):
    opened = Desk(Artifacts(tmp_path))
    opened.add_image(picture("red", (50, 10, 69, 29)))
    opened.add_image(picture("red", (20, 10, 31, 21)))
    return opened


def calls(url, desk, *asked, path=""):
    """What calls give, one after the other."""
    registry = open_tools(["select", "seem"], {"segment_like": {"url": url + path}})
    try:
        return [
            registry.call(Call(name, json.dumps(arguments)), desk, deadline=time.monotonic() + 60)
            for name, arguments in asked
        ]
    finally:
        registry.close()


def test_the_example_is_the_newest_mask_on_the_second_picture(url, desk):
    selected, found = calls(url, desk, ("select", {"image": "img_2", **AREA}), ("seem", {}))
    assert selected.error is None and found.error is None, (selected.error, found.error)
    assert found.value == {"message": "The seem has processed the image."} and len(found.pictures) == 1
    shown = PIL.Image.open(desk.find(found.pictures[0]).path)
    assert shown.size == (80, 40)
    assert [shown.getpixel(place) for place in ((60, 20), (25, 15))] == [(255, 0, 0), (63, 63, 63)]


def test_what_it_does_not_find_or_do_is_one_line(url, desk):
    asked = ("select", {"image": "img_2", **AREA}), ("seem", {})
    assert calls(url, desk, *asked, path="/empty")[1].error == "nothing like the example was found"
    failed = calls(url, desk, *asked, path="/angry")[1]
    assert "500" in failed.error and failed.unavailable
