"""The pictures of docs/agent.md are made by runs that still go as they show."""

import numpy as np
import PIL.Image
import pytest

from benchmarks import agent_screens
from llavakit.agent.events import read_events
from llavakit.agent.run import EVENTS


@pytest.fixture(scope="module")
def tools():
    opened = agent_screens.open_all()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("agent-blur", "There is 1 person. [call_1] I have blurred 1 face. [call_2] [call_3]"),
        ("agent-ocr", "lines and begins with:"),
        ("agent-count", "I count 1 cup. [call_1]"),
    ],
)
def test_a_run_on_a_photo_goes_as_the_document_shows_it(tmp_path, tools, name, says):
    answer = agent_screens.draw(name, tmp_path, tmp_path, tools)
    assert says in answer and "[missing" not in answer
    assert "call_1" in (tmp_path / f"{name}.svg").read_text()
    assert (tmp_path / f"{name}.jpg").exists() == (name == "agent-blur")


def test_the_people_of_a_street_are_counted_and_their_faces_hidden_and_nothing_else_is_changed(
    tmp_path, tools
):
    answer = agent_screens.draw("agent-street", tmp_path, tmp_path, tools)
    assert answer == "There are 4 people. [call_1] I have blurred 4 faces. [call_2] [call_3]"
    returned = [event for event in read_events(tmp_path / "run" / EVENTS) if event.kind == "returned"]
    [found] = [event.value["faces"] for event in returned if "faces" in event.value]
    [hidden] = [event.value["hidden"] for event in returned if "hidden" in event.value]
    before = np.asarray(PIL.Image.open(tmp_path / "photo.png"))
    after = np.asarray(PIL.Image.open(tmp_path / "run" / "img_2-blur.png"))
    outside, sharp = np.ones(before.shape[:2], bool), np.abs(np.diff(before.astype(int), axis=1))
    left_sharp = np.abs(np.diff(after.astype(int), axis=1))
    for place in hidden:
        rows, columns = pixels(place, before.shape, 2)  # told to a thousandth of the picture
        outside[rows, columns] = False
    assert np.array_equal(before[outside], after[outside]) and outside.mean() > 0.85
    assert len(found) == 4
    for face in found:
        rows, columns = pixels(face["box"], before.shape, -2)
        assert (before[rows, columns] != after[rows, columns]).any(axis=-1).mean() > 0.9
        assert left_sharp[rows, columns].mean() < 0.3 * sharp[rows, columns].mean(), (
            "six cells are left of a face"
        )


def pixels(box, shape, more):
    """Rows and columns of a box, so many pixels wider."""
    left, top, right, bottom = box
    height, width = shape[:2]
    return (
        slice(int(top * height) - more, int(bottom * height) + more),
        slice(int(left * width) - more, int(right * width) + more),
    )
