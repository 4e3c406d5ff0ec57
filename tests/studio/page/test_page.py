"""The page in a real browser, doing what a person does: mouse, keys, fingers, two tabs, a server that ends."""

import json
import re
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage.data

from llavakit.studio.engines import Engine
from tests.browser import ALT, CONTROL, SHIFT, Browser
from tests.serve.live import wait_until
from tests.studio.http.served import Scripted, serving
from tests.studio.http.test_app import add_tint
from tests.studio.http.test_jobs import Slow
from tests.studio.page.hand import (
    IDLE,
    SELECTED,
    colour_at,
    filled,
    name_of,
    screen_of,
    seen,
    settle,
    state,
    upload,
)
from tests.studio.pictures import Square

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CUTS = "document.querySelectorAll('#layers [data-key^=layer]').length"


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of a few photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        PIL.Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """One server for the tests that need none of their own: its address, and what its model will say."""
    model = Scripted()
    with serving(tmp_path_factory.mktemp("studio"), model) as url:
        yield url, model


def add_squares(rooms):
    rooms.bench.table["squares"] = Engine("segment", "Squares", Square)


def test_a_person_takes_a_thing_away_talks_about_it_and_finds_it_all_again(browser, photos, tmp_path):
    def choose(rooms):
        add_squares(rooms)
        rooms.bench.chosen["segment"] = "squares"

    model = Scripted()
    with serving(tmp_path / "pictures", model, prepared=choose) as url:
        take_away_and_talk(browser, url, model, photos / "astronaut.png", tmp_path)


def take_away_and_talk(browser: Browser, url: str, model: Scripted, photo: Path, downloads: Path) -> None:
    upload(browser, url, photo)
    before = seen(browser, url)
    patch = [
        screen_of(browser, x, y) for x, y in ((150, 450), (190, 440), (195, 480))
    ]  # the badge on the left
    browser.press("p")
    browser.drag(*patch)
    settle(browser, SELECTED)
    box = state(browser, url)["selection"]["box"]
    assert box[0] < 150 and box[2] > 195
    browser.press("v")
    target = screen_of(browser, 400, 100)
    there = colour_at(browser, 400, 100)
    rev = state(browser, url)["rev"]
    browser.mouse("Pressed", *patch[1])
    for part in (0.3, 0.7, 1):
        browser.mouse("Moved", *(a + (b - a) * part for a, b in zip(patch[1], target, strict=True)))
    assert np.abs(colour_at(browser, 400, 100) - there).max() > 20  # it is seen where it is dragged
    browser.mouse("Released", *target)
    settle(browser, f"{CUTS} == 1")
    assert state(browser, url)["rev"] <= rev + 3  # cut out, moved, perhaps filled: no command for every step
    filled(browser)
    after = seen(browser, url)
    assert np.abs(after[435:450, 170:190] - before[435:450, 170:190]).mean() > 10  # gone, and filled
    changed = np.abs(after - before).max(2) > 0
    assert not changed[:, :100].any() and changed[90:120, 380:400].any()
    model.lines = [
        'I see a badge. <tool_call>{"name": "remove", "arguments": {"box": [0.7, 0.1, 0.85, 0.3]}}</tool_call>'
    ]
    browser.click("#question")
    browser.write("What is up there? Take it away.")
    browser.press("Enter")
    browser.until("document.querySelector('.offer')")
    assert "I see a badge." in browser.value("document.querySelector('#talk').innerText")
    asked = model.heard[-1].messages[-1]
    assert asked.text == "What is up there? Take it away." and len(asked.images) == 1
    shown = np.asarray(asked.images[0].source, int)
    assert np.abs(shown - after).max() <= 1  # the model sees what is on the canvas now
    browser.press("Escape")
    browser.press("Enter", modifiers=CONTROL)
    browser.until("document.querySelectorAll('.said').length == 3")
    filled(browser)
    assert np.abs(seen(browser, url) - after)[60:140, 370:420].mean() > 4  # the thing that was moved there
    browser.press("z", modifiers=CONTROL)
    settle(browser)
    assert np.array_equal(seen(browser, url), after)
    browser.call("Page.reload")
    browser.until(f"document.querySelectorAll('.said').length == 3 && {CUTS} == 1 && {IDLE}")
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.press("s", modifiers=CONTROL)
    browser.until("document.querySelector('#dialog').open")
    browser.click("[data-kind=png]")
    file = downloads / "astronaut.png"
    wait_until(file.is_file)
    assert np.array_equal(np.asarray(PIL.Image.open(file).convert("RGB"), int), after)


def test_a_stroke_selects_the_thing_it_is_over(browser, photos, tmp_path):
    with serving(tmp_path, segments=True) as url:
        select_and_seek(browser, url, photos / "coffee.png")


def select_and_seek(browser: Browser, url: str, photo: Path) -> None:
    upload(browser, url, photo)
    browser.until("!document.querySelector('#chips').innerText.includes('Looking')", seconds=60)
    assert browser.value("document.querySelectorAll('#chips .failed').length") == 0
    names = browser.value("[...document.querySelectorAll('#noticed button')].map(each => each.textContent)")
    assert "cup" in names and len(names) <= 8
    browser.click(f"#noticed button:nth-child({names.index('cup') + 1})")
    settle(browser, SELECTED)
    left, _, right, _ = state(browser, url)["selection"]["box"]
    assert 100 < left < 300 < right < 500  # the cup of coffee.png
    browser.value("document.querySelector('#stage').focus()")
    browser.press("Escape", "b")
    browser.drag(screen_of(browser, 250, 150), screen_of(browser, 300, 170), screen_of(browser, 340, 160))
    settle(browser, SELECTED)
    selection = state(browser, url)["selection"]
    left, top, right, bottom = selection["box"]
    assert left < 240 and right > 350 and bottom - top > 60  # more than the stroke: the thing
    count, chosen = len(selection["candidates"]), selection["chosen"]
    browser.press("Tab")
    settle(browser)
    if count > 1:
        assert state(browser, url)["selection"]["chosen"] == (chosen + 1) % count
        assert browser.value("document.activeElement.id") == "stage"
    else:
        assert browser.value("document.activeElement.id") != "stage"  # Tab goes on through the page
    browser.value("document.querySelector('#stage').focus()")
    browser.press("Escape", "t")
    browser.write("zeppelin")
    browser.press("Enter")
    browser.until("document.querySelector('#status').classList.contains('bad')")
    assert state(browser, url)["selection"] is None


def test_the_offer_of_the_model_is_applied_by_a_key_and_undone_at_once(browser, studio, photos):
    url, model = studio
    upload(browser, url, photos / "coffee.png")
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= 1200  # the chip says at length what is missing
    model.lines = [
        'Gladly. <tool_call>{"name": "move", "arguments": {"dx": 0.1}}</tool_call>',
        "It is on the right.",
    ]
    browser.press("p")
    browser.drag(screen_of(browser, 280, 180), screen_of(browser, 330, 180))
    settle(browser, SELECTED)
    browser.press("/")
    browser.write("Move it")
    browser.press("Enter")
    browser.until("document.querySelector('.offer')")
    assert "move it" in browser.value("document.querySelector('.offer').innerText")
    assert state(browser, url)["layers"][1:] == []  # nothing is done before somebody said yes
    browser.press("Enter", modifiers=CONTROL)
    settle(browser, f"{CUTS} == 1 && !document.querySelector('.offer')")
    browser.press("Escape")
    browser.press("z", modifiers=CONTROL)
    settle(browser, f"{CUTS} == 0")
    talk = [turn["text"] for turn in state(browser, url)["talk"]]
    assert talk == ["Move it", "Gladly.", "(applied)"]
    browser.call("Page.reload")
    browser.until(f"document.querySelectorAll('.said').length == 3 && {IDLE}")
    browser.press("Z", modifiers=CONTROL + SHIFT)
    settle(browser, f"{CUTS} == 1")


def test_everything_by_keys(browser, studio, photos):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png")
    browser.press("p")
    browser.drag(screen_of(browser, 200, 150), screen_of(browser, 260, 150))
    settle(browser, SELECTED)
    areas = [state(browser, url)["selection"]["area"]]
    for key in ("g", "g", "G", "i", "i"):
        rev = browser.value("document.querySelector('#stage').dataset.rev")
        browser.press(key, modifiers=SHIFT if key.isupper() else 0)
        settle(browser, f"document.querySelector('#stage').dataset.rev > {rev}")
        areas.append(state(browser, url)["selection"]["area"])
    assert (
        areas[0] < areas[1] < areas[2] > areas[3]
        and areas[4] == 300 * 451 - areas[3]
        and areas[5] == areas[3]
    )
    browser.press("v", "ArrowRight")
    settle(browser, f"{CUTS} == 1")
    browser.press("ArrowRight", "ArrowDown", modifiers=SHIFT)
    time.sleep(0.6)  # the keys rest, and what they did is sent
    settle(browser)
    matrix = state(browser, url)["layers"][1]["matrix"]
    browser.press(".", ">")
    settle(browser)
    turned = state(browser, url)["layers"][1]["matrix"]
    assert turned[3] > matrix[3] == 0 and turned[0] > 1
    browser.press("d", modifiers=CONTROL)
    settle(browser, f"{CUTS} == 2")
    browser.press("Delete")
    settle(browser, f"{CUTS} == 1")
    browser.press("?")
    browser.until(
        "document.querySelector('#dialog').open && document.querySelectorAll('.keys li').length > 40"
    )
    browser.press("Escape")
    browser.until("!document.querySelector('#dialog').open")


def test_a_pen_that_leaves_the_picture_goes_on_and_alt_takes_away(browser, studio, photos):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png")
    browser.press("p")
    x, y = screen_of(browser, 20, 150)
    browser.drag(
        (x, y), (5, y), (5, y + 60), screen_of(browser, 20, 210)
    )  # over the tools beside the picture
    settle(browser, SELECTED)
    first = state(browser, url)["selection"]
    assert first["box"][0] == 0 and first["box"][3] >= 210
    browser.drag(screen_of(browser, 10, 200), screen_of(browser, 60, 210), modifiers=ALT)
    settle(browser)
    assert state(browser, url)["selection"]["area"] < first["area"]


def test_a_pen_draws_and_from_then_on_a_finger_pushes(browser, studio, photos):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png", phone=True, width=820, height=1180)
    browser.click("[data-tool=brush]")
    x, y = browser.middle("#stage")
    for kind, along in (("Pressed", 0), ("Moved", 30), ("Moved", 60), ("Released", 60)):
        browser.mouse(kind, x + along, y, pen=True)
    settle(browser, SELECTED)
    before, there = state(browser, url), browser.screenshot()
    browser.touch("Start", (x, y))
    for step in range(1, 6):
        browser.touch("Move", (x + 20 * step, y + 10 * step))
    browser.touch("End")
    time.sleep(0.4)
    assert state(browser, url)["rev"] == before["rev"] and browser.screenshot() != there


def test_what_an_engine_made_is_chosen_from(browser, photos, tmp_path):
    with serving(tmp_path, prepared=add_tint) as url:
        upload(browser, url, photos / "chelsea.png")
        browser.press("x")
        browser.until("document.activeElement.tagName == 'TEXTAREA'")
        browser.write("one colour")
        browser.click("#dialog-body button.primary")
        settle(browser, "document.querySelectorAll('#bar .variant img').length == 2")
        browser.until("[...document.querySelectorAll('#bar img')].every(each => each.naturalWidth > 0)")
        browser.click("#bar [data-act=vary-1]")
        settle(browser)
        assert (seen(browser, url) == 80).all()


def test_another_engine_is_chosen_and_stays_chosen(browser, photos, tmp_path):
    with serving(tmp_path, prepared=add_squares) as url:
        upload(browser, url, photos / "chelsea.png")
        browser.press("w", "s")
        browser.until("document.querySelector('#dialog').open")
        missing = browser.value("document.querySelector('.settings input[value=sam2]').disabled")
        assert missing and "sam2=" in browser.value("document.querySelector('.settings').innerText")
        browser.click(".settings input[value=squares]")
        browser.press("Escape")
        for x, y in ((200, 150), (300, 100)):
            browser.drag(screen_of(browser, x, y))
            settle(browser, SELECTED)
            assert state(browser, url)["selection"]["box"] == [x - 9, y - 9, x + 9, y + 9]
            browser.press("Escape")
            settle(browser, "document.querySelector('#bar').hidden")
            browser.call("Page.reload")
            browser.until(f"document.querySelector('#stage')?.dataset.rev && {IDLE}")
            browser.press("w")


def test_what_is_being_made_is_seen_and_taken_back(browser, photos, tmp_path):
    slow = Slow()

    def add(rooms):
        rooms.bench.table["slow"] = Engine("edit", "Slow", lambda: slow)
        rooms.bench.chosen["edit"] = "slow"

    with serving(tmp_path, prepared=add) as url:
        upload(browser, url, photos / "chelsea.png")
        for words in ("make it winter", "make it night"):
            browser.press("x")
            browser.until("document.activeElement.tagName == 'TEXTAREA'")
            browser.write(words)
            browser.click("#dialog-body button.primary")
            browser.until(f"document.querySelector('#jobs').innerText.includes('{words}')")
        browser.until("document.querySelector('#jobs li').innerText.includes('Making')")
        browser.press("p")  # meanwhile the picture is worked on
        x, y = browser.middle("#stage")
        browser.drag((x, y), (x + 60, y + 20))
        settle(browser, SELECTED)
        browser.click("#jobs li:last-child button")
        browser.until("document.querySelectorAll('#jobs li').length == 1")
        slow.step.set()
        browser.until("!document.querySelector('#jobs li')")
        settle(browser, "document.querySelectorAll('#bar .variant img').length == 2")
        assert (
            slow.begun == 2 and state(browser, url)["selection"]
        )  # two variants of the first, none of the second


def test_masks_from_elsewhere_become_objects(browser, studio, photos, tmp_path):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png")
    masks = {
        "categories": [{"id": 4, "name": "stripe"}],
        "annotations": [
            {"category_id": 4, "segmentation": {"size": [300, 451], "counts": [3000, 3000, 129300]}}
        ],
    }
    (tmp_path / "masks.json").write_text(json.dumps(masks))
    browser.choose_file("#file", tmp_path / "masks.json")
    settle(browser, "document.querySelectorAll('#layers [data-key^=object]').length == 1")
    [kept] = state(browser, url)["objects"]
    assert (kept["label"], kept["box"], kept["area"]) == ("stripe", [10, 0, 20, 300], 3000)
    (tmp_path / "masks.json").write_text("{}")
    browser.choose_file("#file", tmp_path / "masks.json")
    browser.until("document.querySelector('#trouble').innerText.includes('COCO')")


def test_a_phone(browser, studio, photos):
    url, _ = studio
    upload(browser, url, photos / "coffee.png", width=390, height=844, phone=True)
    assert browser.value("document.documentElement.scrollWidth") <= 390
    browser.click("[data-tool=brush]")
    start, end = browser.middle("#stage"), browser.middle("#stage")
    browser.touch("Start", start)
    for step in range(1, 6):
        browser.touch("Move", (start[0] + 8 * step, start[1]))
    browser.touch("End")
    settle(browser, SELECTED)
    area = state(browser, url)["selection"]["area"]
    percent = browser.value("document.querySelector('#percent').innerText")
    a, b = (end[0] - 40, end[1]), (end[0] + 40, end[1])
    browser.touch("Start", a)
    browser.touch("Start", a, b)
    for step in range(1, 6):
        browser.touch("Move", (a[0] - 8 * step, a[1]), (b[0] + 8 * step, b[1]))
    browser.touch("End")
    assert browser.value("document.querySelector('#percent').innerText") != percent
    time.sleep(0.3)
    assert state(browser, url)["selection"]["area"] == area  # two fingers draw nothing
    browser.click("#tab-objects")
    browser.until("document.querySelector('#side').dataset.tab == 'objects'")
    browser.click("[data-act=undo]")
    settle(browser, "document.querySelector('#bar').hidden")


def test_before_and_after_and_versions(browser, studio, photos):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png")
    browser.press("p")
    browser.drag(screen_of(browser, 100, 100), screen_of(browser, 300, 100))
    settle(browser, SELECTED)
    browser.press("Delete", modifiers=SHIFT)
    filled(browser)
    browser.press("c")
    browser.until("!document.querySelector('#compare').hidden && document.activeElement.id == 'slide'")
    photo = skimage.data.chelsea().astype(int)
    time.sleep(0.3)  # tiles of the picture as it came
    near, far = (
        colour_at(browser, x, 96) for x in (120, 280)
    )  # both were removed; the left one is shown as it came
    assert np.abs(near - photo[94:99, 118:123].mean((0, 1))).max() < 12
    now = seen(browser, url)
    assert np.abs(far - now[94:99, 278:283].mean((0, 1))).max() < 12
    assert np.abs(now[80:120, 100:300] - photo[80:120, 100:300]).mean() > 4
    browser.press("Escape")
    browser.until("document.querySelector('#compare').hidden")
    browser.press("h")
    browser.until("document.querySelectorAll('.versions li').length == 1")
    browser.click("#dialog-body button.primary")
    browser.until("document.querySelectorAll('.versions li').length == 2")
    browser.click(".versions li:last-child button")  # what it was when it came
    settle(browser, "!document.querySelector('#dialog').open")
    assert np.array_equal(seen(browser, url), skimage.data.chelsea())


def test_two_tabs_lose_nothing_of_each_other(studio, photos, browser):
    url, _ = studio
    upload(browser, url, photos / "chelsea.png")
    name = name_of(browser)
    with Browser() as other:
        other.open(f"{url}/#{name}")
        other.until(f"document.querySelector('#stage').dataset.rev && {IDLE}")
        browser.press("p")
        other.press("p")
        browser.drag(screen_of(browser, 100, 100), screen_of(browser, 140, 100))
        settle(browser, SELECTED)
        first = state(browser, url)["selection"]["area"]
        other.drag(screen_of(other, 300, 200), screen_of(other, 340, 200))  # it has seen nothing yet
        settle(other, SELECTED)
        assert state(browser, url)["selection"]["area"] > 1.5 * first
        other.press("z", modifiers=CONTROL)
        settle(other)
        assert state(browser, url)["selection"]["area"] == first


def test_a_server_that_ends_is_told_and_what_was_done_arrives(tmp_path, browser, photos):
    with serving(tmp_path) as url:
        upload(browser, url, photos / "chelsea.png")
        browser.press("p")
    browser.drag(screen_of(browser, 100, 100), screen_of(browser, 140, 100))
    browser.until("document.querySelector('#trouble').innerText.includes('does not answer')")
    with serving(tmp_path, port=int(re.search(r":(\d+)", url)[1])):
        settle(browser, SELECTED)
        assert browser.value("document.querySelector('#trouble').hidden")
        assert state(browser, url)["selection"]["area"] > 0


def test_what_people_and_models_wrote_is_text(browser, studio, photos, tmp_path):
    url, model = studio
    evil = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    photo = tmp_path / "<img src=x onerror=alert(1)>.png"
    photo.write_bytes((photos / "chelsea.png").read_bytes())
    model.lines = [f"{evil} [0.1, 0.2, 0.5, 0.6]"]
    upload(browser, url, photo)
    browser.press("/")
    browser.write(evil)
    browser.press("Enter")
    browser.until("document.querySelectorAll('.said.assistant .place').length == 1")
    texts = browser.value("[...document.querySelectorAll('.said')].map(n => n.firstChild.textContent)")
    assert texts == [evil, f"{evil} [0.1, 0.2, 0.5, 0.6]"]
    assert browser.value("document.querySelectorAll('#side script, #side img, header script').length") == 0
    assert "broken" not in browser.value("document.title")


def test_an_answer_is_stopped_and_an_offer_declined(browser, studio, photos):
    url, model = studio
    upload(browser, url, photos / "chelsea.png")
    model.lines = [
        "one two three four",
        'Shall I? <tool_call>{"name": "remove", "arguments": {}}</tool_call>',
    ]
    model.wait.clear()
    browser.press("/")
    browser.write("Count")
    browser.press("Enter")
    browser.until("document.querySelector('.waiting')?.textContent == 'one'")
    assert browser.value("document.querySelector('#send').innerText") == "Stop"
    browser.click("#send")
    time.sleep(0.5)  # until the server knows
    model.wait.set()
    browser.until("document.querySelector('.said.assistant:not(.waiting)')")
    assert browser.value("document.querySelector('#send').innerText") == "Send"
    assert browser.value("document.querySelector('.said.assistant').textContent") in ("one", "one two")
    browser.write("Take it away")
    browser.press("Enter")
    browser.until("document.querySelector('.offer')")
    browser.press("Escape")  # out of the field
    browser.press("Escape")
    settle(browser, "!document.querySelector('.offer')")
    assert [turn["text"] for turn in state(browser, url)["talk"]][2:] == [
        "Take it away",
        "Shall I?",
        "(declined)",
    ]


def test_a_picture_that_is_not_there_is_told(browser, studio):
    browser.open(f"{studio[0]}/#{'a' * 22}")
    browser.until("document.querySelector('#trouble').innerText.includes('no such picture')")
    assert not browser.value("document.querySelector('#welcome').hidden")


AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.map(
    each => [each.impact, each.id, each.nodes.map(node => node.html + node.failureSummary).slice(0, 3)]))"""


@pytest.mark.parametrize("screen", [{}, {"dark": True}, {"width": 390, "height": 844, "phone": True}])
def test_the_page_is_for_everybody(browser, studio, photos, screen):
    url, model = studio
    model.lines = ['Shall I? <tool_call>{"name": "remove", "arguments": {}}</tool_call> [0.1, 0.1, 0.3, 0.3]']
    spec = find_spec("axe_playwright_python")
    axe = (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text()
    browser.open(url, **screen)
    browser.until("document.body.ariaBusy == 'false'")
    found = [look(browser, axe)]
    upload(browser, url, photos / "chelsea.png", **screen)
    browser.press("p")
    browser.drag(browser.middle("#stage"), screen_of(browser, 100, 100))
    settle(browser, SELECTED)
    browser.press("/")
    browser.write("What is this?")
    browser.press("Enter")
    browser.until("document.querySelector('.offer')")
    browser.press("Escape")
    found.append(look(browser, axe))
    for key in ("?", "h", "m", "s"):
        browser.press(key)
        browser.until("document.querySelector('#dialog').open")
        found.append(look(browser, axe))
        browser.press("Escape")
        browser.until("!document.querySelector('#dialog').open")
    browser.press("c")
    found.append(look(browser, axe))
    assert [each for violations in found for each in violations if each[0] in ("serious", "critical")] == []


def look(browser: Browser, axe: str) -> list:
    browser.value(f"{axe};0")
    return browser.value(AXE)
