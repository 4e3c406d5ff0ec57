"""Engines over HTTP: servers that do as agreed, and those that do not."""

import numpy as np
import pytest

from llavakit.core.errors import RemoteError
from llavakit.studio.defaults import default_bench
from llavakit.studio.engines import Mark, Prompts
from llavakit.studio.fill.lama import Lama
from llavakit.studio.looking import SceneView
from llavakit.studio.picture import read_picture
from llavakit.studio.scene import EditError
from llavakit.studio.segment.seem import Seem
from llavakit.studio.session import Session, first_scene
from tests.studio.pictures import png, scenery
from tests.tools.engines_http import engines


@pytest.fixture
def url():
    with engines() as found:
        yield found


def test_a_removal_is_filled_by_the_server(url):
    session = Session.create(None, png(scenery()), default_bench(lama=url))
    session.apply({"do": "paint", "path": [[100, 100]], "width": 40})
    session.apply({"do": "remove", "grow": 0})
    shown = session.tile(session.rev, 0, 0, 0)[..., :3]
    assert (shown[100, 100] == (0, 200, 0)).all() and np.array_equal(shown[:60], scenery()[:60, :256])


@pytest.mark.parametrize(
    ("path", "line"),
    [("/angry", "500"), ("/broken", "not an image"), ("/small", "gave 5 x 5 pixels for 30 x 20")],
)
def test_what_is_not_as_agreed_is_one_line(url, path, line):
    rgb, hole = scenery(30, 20), np.zeros((20, 30), bool)
    hole[5:9, 5:9] = True
    with pytest.raises(RemoteError, match=line):
        Lama(url + path).fill(rgb, hole)


def test_nobody_there_and_words_are_one_line():
    rgb, hole = scenery(30, 20), np.ones((20, 30), bool)
    with pytest.raises(RemoteError, match=":9/api"):
        Lama("http://127.0.0.1:9").fill(rgb, hole)
    with pytest.raises(EditError, match="no prompt"):
        Lama("http://127.0.0.1:9").fill(rgb, hole, "a dog")


def view(width=3000, height=40):
    return SceneView(first_scene(read_picture(png(scenery(width, height)))))


def test_marks_are_segmented_by_the_server_in_pixels_of_what_it_is_sent(url):
    seem = default_bench(seem=url).segmenter()
    click = Mark(((1000.0, 20.0),), 1.0, True)
    found = seem.segment(view(), Prompts((click,)))
    assert len(found) == 3 and found[0].name == "dog" and found[0].score == 0.5
    x, y = found[0].at
    height, width = found[0].mask.shape
    assert x <= 1000 < x + width and y <= 20 < y + height and 14 <= width <= 18  # it saw half of the pixels
    before = np.zeros((40, 3000), np.uint8)
    before[:, 2000:2100] = 255
    [corrected, *_] = seem.segment(view(), Prompts((click,), before=before))
    assert corrected.at[0] < 1000 and corrected.at[0] + corrected.mask.shape[1] > 2090


@pytest.mark.parametrize(
    ("path", "line"), [("/angry", "500"), ("/broken", "no masks"), ("/small", "a mask of")]
)
def test_masks_that_are_not_as_agreed_are_one_line(url, path, line):
    with pytest.raises(RemoteError, match=line):
        Seem(url + path).segment(view(), Prompts((Mark(((9.0, 9.0),), 1.0, True),)))


def test_nothing_found_is_said(url):
    with pytest.raises(EditError, match="nothing there"):
        Seem(f"{url}/empty").segment(view(), Prompts((Mark(((9.0, 9.0),), 1.0, True),)))
