"""Pictures by name: ids that nobody guesses, an end of their time, and what a desk hands out."""

import stat
import time

import PIL.Image
import pytest

from llavakit.core.errors import DataError
from llavakit.text.calls import ToolError
from llavakit.tools.artifacts import ID, Artifacts, Origin, open_image
from llavakit.tools.desk import Desk
from llavakit.vision.plan import ImageConfig

RED = PIL.Image.new("RGB", (40, 20), "red")


@pytest.fixture
def store(tmp_path):
    return Artifacts(tmp_path / "art")


def test_a_picture_is_found_by_its_id_alone_also_by_another_process(store, tmp_path):
    origin = Origin("a" * 16, 1.0, 2.0, 3.0)
    made = store.add_image(RED, made_by="crop", origin=origin)
    again = Artifacts(tmp_path / "art").find(made.id)
    assert again == made and ID.fullmatch(made.id) and again.origin == origin
    assert open_image(again).getpixel((3, 3)) == (255, 0, 0)
    assert store.add_image(RED).id != made.id
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 16, "A" * 16, "\0" * 16, "x" * 100_000])
def test_what_is_no_id_is_one_clear_line(store, name):
    with pytest.raises(ToolError) as raised:
        store.find(name)
    assert len(str(raised.value)) < 200


def test_what_is_over_is_gone_with_its_file(tmp_path):
    store = Artifacts(tmp_path, seconds=-1)
    made = store.add_text("secret")
    with pytest.raises(ToolError, match="time is over"):
        store.find(made.id)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_full_says_so(tmp_path):
    store = Artifacts(tmp_path, most_bytes=1000)
    store.add_text("x" * 900)
    with pytest.raises(ToolError, match="no room"):
        store.add_text("x" * 200)
    assert len(list(tmp_path.glob("*.txt"))) == 1


def test_what_is_no_picture_does_not_get_in(store):
    with pytest.raises(DataError):
        store.add_image(b"<svg onload='x'>")
    assert list(store.folder.iterdir()) == []


def test_names_are_short_and_other_desks_are_closed(store):
    one, other = Desk(store), Desk(store)
    assert [one.add_image(RED), one.add_text("long"), one.add_image(RED, made_by="zoom")] == [
        "img_1",
        "txt_1",
        "img_2",
    ]
    assert one.describe() == {"img_1": "40 x 20 pixels", "img_2": "40 x 20 pixels, made by zoom"}
    assert one.find("txt_1", "text").path.read_text() == "long"
    with pytest.raises(ToolError, match="no image at all"):
        other.find("img_1")
    with pytest.raises(ToolError, match="no image at all"):
        other.find(one.names["img_1"])
    assert Desk(store, open=True).find(one.names["img_1"]).id == one.names["img_1"]
    with pytest.raises(ToolError, match="img_1"):
        one.find("img_9")
    with pytest.raises(ToolError, match="of kind text, not image"):
        one.find("txt_1")
    assert Desk(store, names=dict(one.names)).find("img_2").made_by == "zoom"


def test_a_box_counts_what_the_model_counts(store):
    desk = Desk(store, unit="input", image=ImageConfig(kind="pad", size=40))
    name = desk.add_image(RED)
    assert desk.box(name, [0, 10, 40, 30]).pixels(desk.frame(name)) == (0, 0, 40, 20)
    assert desk.box(name, [0, 0, 0.5, 1], "0-1").pixels(desk.frame(name)) == (0, 0, 20, 20)


def test_time_is_what_the_store_was_told(store):
    assert 0 < store.add_text("x").expires - time.time() <= store.seconds
