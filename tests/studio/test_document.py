"""The editor from Python, and what it saves: read back by Pillow, zipfile and pycocotools."""

import io
import json
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from llavakit.core.errors import ConfigError, DataError
from llavakit.studio.document import Document
from llavakit.studio.engines import Engine, Found
from llavakit.studio.saving import unpack_session
from llavakit.studio.scene import EditError
from llavakit.studio.session import Session
from llavakit.vision.rle import decode_rle, encode_rle
from tests.studio.pictures import bench, pixels_of, png, scenery


@pytest.fixture
def document():
    return Document.open(png(scenery()), bench=bench())


def test_select_move_save(document, tmp_path):
    out = tmp_path / "out.png"
    document.segment(box=(90, 90, 160, 180)).move(dx=120).move(dy=-20).save(out)
    with PIL.Image.open(out) as saved:
        pixels = np.asarray(saved.convert("RGB"))
    assert np.array_equal(pixels[80:150, 225:270], scenery()[100:170, 105:150])
    assert (pixels[130, 120] == (0, 0, 7)).all()
    document.undo().undo()
    assert np.array_equal(np.asarray(document.picture())[..., :3], scenery())


class Hearing:
    """A segmenter that keeps what it was asked."""

    def __init__(self) -> None:
        self.heard = []

    def steps(self, view):
        return ()

    def segment(self, view, prompts):
        self.heard.append(prompts)
        return [Found("thing", (40, 50), np.full((30, 20), 255, np.uint8))]


def test_what_words_selected_is_corrected_by_an_engine_that_knows_marks_only():
    engines, words, marks = bench(), Hearing(), Hearing()
    engines.table |= {
        "words": Engine("segment", "", lambda: words), "marks": Engine("segment", "", lambda: marks),
    }  # fmt: skip
    document = Document.open(png(scenery()), bench=engines)
    document.segment("the disc", engine="words").segment(
        points=[(50, 60, False)], how="refine", engine="marks"
    )
    [asked] = marks.heard
    assert words.heard[0].text == "the disc" and asked.text == "" and len(asked.marks) == 1
    assert asked.before is not None and asked.before[60, 50] == 255
    assert document.session.describe()["selection"]["label"] == "the disc"


def test_the_final_fill_is_made_by_the_engine_that_is_named():
    engines = bench()
    engines.table["other"] = Engine("inpaint", "another colour", Other)
    document = Document.open(png(scenery()), bench=engines)
    document.segment(box=(90, 90, 160, 180)).remove(fill="preview").do("refine", engine="other")
    assert (np.asarray(document.picture())[130, 120, :3] == 50).all()


class Other:
    def fill(self, rgb, hole, prompt="", seed=0):
        return np.where(hole[..., None], np.uint8(50), rgb)


def test_a_layer_that_is_turned_by_right_angles_keeps_its_pixels(document):
    document.segment(box=(90, 90, 150, 170)).rotate(90).rotate(90).rotate(90).rotate(90)
    assert np.array_equal(np.asarray(document.picture())[100:160, 100:140, :3], scenery()[100:160, 100:140])


def test_jpeg_keeps_profile_and_tags_and_is_turned_once(tmp_path):
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    file = io.BytesIO()
    PIL.Image.fromarray(scenery()).save(file, "jpeg", quality=95, icc_profile=profile, exif=exif)
    document = Document.open(file.getvalue(), bench=bench())
    assert document.scene.size == (270, 300)
    for name in ("out.jpg", "out.png", "out.webp"):
        document.save(tmp_path / name)
        with PIL.Image.open(tmp_path / name) as saved:
            assert saved.size == (270, 300) and saved.info["icc_profile"] == profile
            assert saved.getexif()[0x010F] == "a camera" and 0x0112 not in saved.getexif()


def test_transparency_comes_in_and_goes_out(tmp_path):
    rgba = np.dstack(
        (scenery(), np.where(np.arange(300) < 150, 0, 200)[None].repeat(270, 0).astype(np.uint8))
    )
    document = Document.open(png(rgba), bench=bench()).save(tmp_path / "out.png")
    with PIL.Image.open(tmp_path / "out.png") as saved:
        assert saved.mode == "RGBA" and np.array_equal(np.asarray(saved), rgba)
    document.save(tmp_path / "out.jpg")
    with PIL.Image.open(tmp_path / "out.jpg") as saved:
        assert (np.asarray(saved)[50:200, 20:120] > 250).all()


def test_openraster_has_every_layer_and_comes_back(document, tmp_path):
    document.segment(box=(90, 90, 160, 180)).move(dx=100).do("layer", layer=1, opacity=0.5, name="<cat>")
    document.save(tmp_path / "out.ora")
    with zipfile.ZipFile(tmp_path / "out.ora") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        merged = PIL.Image.open(io.BytesIO(archive.read("mergedimage.png")))
        assert np.array_equal(np.asarray(merged), np.asarray(document.picture()))
    again = Document.open(tmp_path / "out.ora", bench=bench())
    assert [(each.name, each.opacity) for each in again.scene.layers] == [("photo", 1.0), ("<cat>", 0.5)]
    assert np.array_equal(np.asarray(again.picture()), np.asarray(document.picture()))


@pytest.mark.parametrize(
    ("stack", "line"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><image w="9" h="9"/>', "entities"),
        ('<image w="9" h="9"><stack/></image>', "0 layers"),
        ('<image w="99999" h="99999"><stack/></image>', "a canvas of 99999 x 99999"),
        ('<image w="9" h="9"><stack><layer src="../../etc/passwd"/></stack></image>', "broken OpenRaster"),
        ("<image", "broken OpenRaster"),
    ],
)
def test_hostile_openraster_is_refused(stack, line):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "image/openraster")
        archive.writestr("stack.xml", stack)
    with pytest.raises(DataError, match=line):
        Document.open(file.getvalue(), bench=bench())


def test_a_session_file_brings_everything_back(tmp_path):
    document = Document.open(png(scenery()), folder=tmp_path / "one", bench=bench())
    document.segment(box=(90, 90, 160, 180)).keep("disc").move(dx=100).undo().save(tmp_path / "all.studio")
    unpack_session(tmp_path / "all.studio", tmp_path / "two")
    again = Document(Session.open(tmp_path / "two", bench()))
    assert pixels_of(again.scene) == pixels_of(document.scene)
    assert pixels_of(again.redo().scene) == pixels_of(document.redo().scene)
    with pytest.raises(EditError, match="in memory"):
        Document.open(png(scenery()), bench=bench()).save(tmp_path / "none.studio")


def test_a_file_that_is_no_session_is_refused_and_leaves_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.studio", "w") as archive:
        archive.writestr("../../escaped", "x")
    with pytest.raises(DataError, match="not a session"):
        unpack_session(tmp_path / "bad.studio", tmp_path / "two")
    assert not (tmp_path / "two").exists()
    (tmp_path / "text.studio").write_text("hello")
    with pytest.raises(DataError, match="not a session"):
        unpack_session(tmp_path / "text.studio", tmp_path / "two")


def test_coco_masks_are_read_back(document, tmp_path):
    document.segment(box=(90, 90, 160, 180)).keep("cat").segment(box=(10, 20, 30, 50)).keep("dog")
    document.save_coco(tmp_path / "masks.json")
    said = json.loads((tmp_path / "masks.json").read_text())
    assert [each["name"] for each in said["categories"]] == ["cat", "dog"]
    for row, box in zip(said["annotations"], ((90, 90, 160, 180), (10, 20, 30, 50)), strict=True):
        read = coco_mask.decode(row["segmentation"]).astype(bool)
        left, top, right, bottom = box
        assert read.shape == (270, 300) and read.sum() == row["area"] == (right - left) * (bottom - top)
        assert read[top:bottom, left:right].all()
        assert coco_mask.toBbox(row["segmentation"]).tolist() == row["bbox"]
    fresh = Document.open(png(scenery()), bench=bench()).do(
        "load_mask", rle=said["annotations"][0]["segmentation"]
    )
    assert fresh.rle() == said["annotations"][0]["segmentation"]


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
@settings(deadline=None)
def test_runs_are_those_of_coco(mask):
    ours = encode_rle(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours["counts"].encode() == theirs["counts"] and ours["size"] == theirs["size"]
    assert np.array_equal(decode_rle(ours["size"], ours["counts"]), mask)


@given(st.text(max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_broken_runs_are_one_line(text, height, width):
    try:
        assert decode_rle((height, width), text).shape == (height, width)
    except DataError as error:
        assert "\n" not in str(error)


def test_another_kind_of_file_is_refused(document, tmp_path):
    with pytest.raises(ConfigError, match="psd"):
        document.save(tmp_path / "x.psd")
