"""The click protocol, and how well the segmenter of the box does in it."""

import json
from pathlib import Path
from threading import Event, Thread

import numpy as np
import PIL.Image
import pytest
from scipy.io import savemat

from llavakit.core.errors import DataError
from llavakit.studio.click_data import read_things
from llavakit.studio.clicks import Thing, click_rounds, figures, measure_clicks, next_click, overlap
from llavakit.studio.engines import Found, Mark, Prompts
from llavakit.studio.looking import SceneView
from llavakit.studio.picture import read_picture
from llavakit.studio.scene import EditError
from llavakit.studio.segment import classical
from llavakit.studio.segment.classical import Classical
from llavakit.studio.session import first_scene
from tests.studio.pictures import disc, png, scenery


@pytest.fixture(scope="module")
def segmenter():
    return Classical()


@pytest.fixture(scope="module")
def golden():
    return {thing.name: thing for thing in read_things(Path(__file__).parents[1] / "golden")}


def view_of(rgb):
    return SceneView(first_scene(read_picture(png(rgb))))


def placed(found, shape):
    out = np.zeros(shape, bool)
    x, y = found.at
    out[y : y + found.mask.shape[0], x : x + found.mask.shape[1]] = found.mask > 127
    return out


def test_masks_drawn_by_hand_are_found_in_few_clicks(segmenter, golden):
    assert len(golden) == 4
    said = figures(list(measure_clicks(segmenter, iter(golden.values()), most=6)))
    assert said["noc85"] <= 4.8 and said["iou_3"] >= 0.79 and said["worst_step"] <= 0.02


def test_the_first_click_has_candidates(segmenter, golden):
    eye = golden["chelsea_eye"]
    x, y, _ = next_click(np.zeros_like(eye.inside), eye)
    found = segmenter.segment(view_of(eye.rgb), Prompts((Mark(((x, y),), 1.0, True),)))
    assert 2 <= len(found) <= 3 and len({each.name for each in found}) == len(found)
    areas = [int(placed(each, eye.inside.shape).sum()) for each in found]
    assert areas == sorted(areas) and areas[-1] > 5 * areas[0]  # the eye, and the cat


def test_a_box_and_a_stroke_select_what_they_are_on(segmenter, golden):
    saucer = golden["coffee_saucer"]
    view, shape = view_of(saucer.rgb), saucer.inside.shape
    boxed = segmenter.segment(view, Prompts(box=(70, 10, 490, 395)))
    assert overlap(placed(boxed[0], shape), saucer) > 0.85
    stroke = Mark(((200, 330), (280, 350), (360, 340)), 14.0, True)
    drawn = segmenter.segment(view, Prompts((stroke,)))
    assert placed(drawn[0], shape)[350, 280]


def test_a_correction_changes_the_mask_around_itself_only(segmenter, golden):
    """A mask from elsewhere, wrong in one place, is corrected there; and a mark it agrees with changes nothing."""
    saucer = golden["coffee_saucer"]
    wrong = saucer.inside.copy()
    wrong[300:396, 60:200] = False
    before = np.uint8(255) * wrong
    view, shape = view_of(saucer.rgb), wrong.shape
    agreed = segmenter.segment(view, Prompts((Mark(((280, 200),), 1.0, True),), before=before))
    assert np.array_equal(placed(agreed[0], shape), wrong)
    x, y, inside = next_click(wrong, saucer)
    mended = placed(
        segmenter.segment(view, Prompts((Mark(((x, y),), 1.0, inside),), before=before))[0], shape
    )
    assert inside and overlap(mended, saucer) > overlap(wrong, saucer) + 0.02
    assert np.array_equal(mended[:200], wrong[:200]) and (mended >= wrong).all()


def test_a_mark_in_the_middle_of_what_is_missing_brings_most_of_it(segmenter):
    """Where all is of one colour, a correction reaches as far as its mark lies inside, and stops at edges."""
    ground = np.zeros(disc().shape, bool)
    ground[20:250, 20:280] = True
    ground &= ~disc()
    marks = (Mark(((250, 40),), 1.0, True), Mark(((120, 135),), 1.0, True))
    found = segmenter.segment(view_of(scenery()), Prompts(marks, before=np.uint8(255) * ground))
    mask = placed(found[0], disc().shape)
    assert mask[disc()].mean() > 0.8 and (mask == ground)[~disc()].mean() > 0.98


def test_a_correction_does_not_wait_for_what_stands_out(monkeypatch):
    """A picture that just came: its pieces are there first, and a mask is corrected by them alone."""
    wait, asked = Event(), Event()

    def slow(view):
        asked.set()
        assert wait.wait(20)
        return np.zeros((4, 4), np.float32)

    monkeypatch.setattr(classical, "whole_picture", slow)
    fresh, view = Classical(), view_of(scenery())
    pieces, stands_out = fresh.steps(view)
    pieces.run()
    looking = Thread(target=stands_out.run)
    looking.start()
    try:
        assert asked.wait(20)
        mark = Mark(((120, 135),), 1.0, True)
        ground = np.uint8(255) * ~disc()
        mended = placed(fresh.segment(view, Prompts((mark,), before=ground))[0], disc().shape)
        assert mended[disc()].mean() > 0.8 and looking.is_alive()
    finally:
        wait.set()
        looking.join()


def test_every_mark_is_heeded(segmenter):
    rgb = scenery()
    view, marks, before = view_of(rgb), [], None
    for x, y, inside in (
        (120, 135, True),
        (250, 40, True),
        (120, 150, False),
        (121, 151, True),
        (5, 5, False),
    ):
        marks.append(Mark(((x, y),), 1.0, inside))
        mask = placed(segmenter.segment(view, Prompts(tuple(marks), before=before))[0], disc().shape)
        assert mask[y, x] == inside
        before = np.uint8(255) * mask


def test_a_name_is_found_without_a_hub(segmenter, golden):
    person = golden["astronaut_person"]
    view = view_of(person.rgb)
    found = segmenter.segment(view, Prompts(text="a person"))
    assert overlap(placed(found[0], person.inside.shape), person) > 0.5 and found[0].name == "a person"
    with pytest.raises(EditError, match="80 classes of COCO"):
        segmenter.segment(view, Prompts(text="the joy of flight"))
    with pytest.raises(EditError, match="no giraffe was found"):
        segmenter.segment(view, Prompts(text="giraffe"))


class Stubborn:
    """Finds the same square whatever is said."""

    def steps(self, view):
        return []

    def segment(self, view, prompts):
        return [Found("square", (10, 10), np.full((20, 20), 255, np.uint8))]


def test_the_protocol_counts_as_published():
    inside = np.zeros((60, 60), bool)
    inside[10:30, 10:50] = True
    thing = Thing("bar", np.zeros((60, 60, 3), np.uint8), inside)
    rounds = click_rounds(Stubborn(), thing, most=4)
    assert rounds.iou == (0.5,) * 4 and rounds.clicks_to(0.5) == 1 and rounds.clicks_to(0.9) == 4
    x, y, positive = next_click(np.zeros_like(inside), thing)
    assert positive and 19 <= x <= 40 and y in (19, 20)
    all_but = np.ones_like(inside)
    assert next_click(all_but, thing)[2] is False
    perfect = Thing("square", thing.rgb, placed(Stubborn().segment(None, None)[0], inside.shape))
    assert click_rounds(Stubborn(), perfect, most=4).iou == (1.0,) * 4
    unsure = Thing("bar", thing.rgb, inside, ~inside)
    assert overlap(all_but, unsure) == 1.0


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def test_folders_of_released_sets_are_read(tmp_path):
    rgb, mask = scenery(), np.uint8(255) * disc()
    save(tmp_path / "grabcut/data_GT/1.png", rgb)
    unknown = mask.copy()
    unknown[:10] = 128
    save(tmp_path / "grabcut/boundary_GT/1.bmp", unknown)
    save(tmp_path / "berkeley/images/2.png", rgb)
    for name in ("2#1.png", "2#2.png"):
        save(tmp_path / "berkeley/masks" / name, mask)
    save(tmp_path / "davis/img/3.png", rgb)
    save(tmp_path / "davis/gt/3.png", mask // 255)
    save(tmp_path / "alpha/cutouts/4.png", np.dstack((rgb, mask))[60:210, 40:200])
    save(tmp_path / "alpha/backgrounds/5.png", rgb[::-1].copy())
    counts = {}
    for folder in sorted(tmp_path.iterdir()):
        things = list(read_things(folder))
        counts[folder.name] = len(things)
        assert all(1000 < thing.inside.sum() < 30_000 for thing in things)
    assert counts == {"alpha": 1, "berkeley": 2, "davis": 1, "grabcut": 1}
    assert next(read_things(tmp_path / "grabcut")).ignored[:10].all()
    with pytest.raises(DataError, match="data_GT and boundary_GT"):
        read_things(tmp_path)


def test_sbd_is_read(tmp_path):
    save(tmp_path / "img/6.jpg", scenery())
    said = np.zeros((1, 1), [("Segmentation", object)])
    said[0, 0] = (np.uint8(disc()) * 2,)
    (tmp_path / "inst").mkdir()
    savemat(tmp_path / "inst/6.mat", {"GTinst": said})
    (tmp_path / "val.txt").write_text("6\n")
    (thing,) = read_things(tmp_path)
    assert thing.name == "6-2" and np.array_equal(thing.inside, disc())


def test_the_command_measures_and_writes(run, tmp_path):
    save(tmp_path / "data/images/2.png", scenery(100, 90))
    save(tmp_path / "data/masks/2.png", np.uint8(255) * disc(100, 90))
    code, out, err = run("eval", "clicks", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert (code, err) == (0, "") and "NoC@85" in out
    said = json.loads((tmp_path / "out" / "clicks.json").read_text())
    assert said["figures"]["noc85"] <= 5 and len(said["things"][0]["iou"]) == 20
    assert run("eval", "clicks")[0] == 2
