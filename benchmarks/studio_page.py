"""The editor's page at 48 megapixels: frames while things move, memory over 200 edits.

Starts a studio in this process and Chromium without a window, opens a picture of 8000 x 6000 pixels, and does
what a hand does: pushes, enlarges, drags what is selected, undoes. A frame is what lies between two of the
browser's own animation frames, of which there are 60 a second; without a GPU the processor draws all pixels. Memory
is what the browser's page process holds for itself (USS), after its garbage was collected.

    python -m benchmarks.studio_page [--side 8000] [--edits 200] [--phone]      --phone: a screen of 390 x 844, by 2
    python -m benchmarks.studio_page --pictures docs/img      instead: the pictures of the documentation
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
import skimage.data

from benchmarks.machine import facts
from tests.browser import CONTROL, Browser
from tests.studio.http.served import Scripted, serving
from tests.studio.page.hand import SELECTED, filled, name_of, screen_of, settle, state, upload

FRAMES = """(() => { window.frames_ = []; let before = 0; window.watching_ = true;
const look = now => { if (before) window.frames_.push(now - before); before = now;
if (window.watching_) requestAnimationFrame(look); }; requestAnimationFrame(look); })()"""
DESK: dict = {"width": 1440, "height": 900}
PHONE: dict = {"width": 390, "height": 844, "phone": True}
READY = "!document.querySelector('#chips').innerText.includes('Looking')"
ASK = ("What is in the picture?", "Take the badge away, please.")
SAID = (
    "An astronaut in an orange suit in front of a flag; the helmet is at [0.55, 0.7, 0.95, 1].",
    'Shall I? <tool_call>{"name": "remove", "arguments": {"box": [0.25, 0.66, 0.42, 0.85]}}</tool_call>',
)


def photo(side: int) -> PIL.Image.Image:
    """A sharp picture of `side` x 3/4 `side` pixels: a photo many times, with noise, so that no tile is cheap."""
    tile = skimage.data.coffee()[:384, :512]
    rows, columns = -(-side * 3 // 4 // tile.shape[0]), -(-side // tile.shape[1])
    whole = np.tile(tile, (rows, columns, 1))[: side * 3 // 4, :side]
    noise = np.random.default_rng(0).integers(-8, 9, whole.shape, dtype=np.int8)
    return PIL.Image.fromarray(np.clip(whole.astype(np.int16) + noise, 0, 255).astype(np.uint8))


@dataclass
class Moving:
    """Milliseconds between the frames of something that moves, and of the page's own work for each."""

    frames: list[float] = field(default_factory=list)
    work: float = 0.0


@contextmanager
def watched(browser: Browser, into: Moving) -> Iterator[None]:
    """What happens meanwhile."""
    before = busy(browser)
    browser.value(FRAMES)
    yield
    browser.value("window.watching_ = false")
    into.frames = browser.value("window.frames_")
    into.work = 1000 * (busy(browser) - before) / len(into.frames)


def busy(browser: Browser) -> float:
    """Seconds that the page's thread has worked so far."""
    metrics = browser.call("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def share(values: list[float], part: float) -> float:
    """A quantile."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def memory_of(browser: Browser) -> float:
    """MiB that the page's process holds for itself."""
    browser.call("HeapProfiler.collectGarbage")
    pages = [
        child
        for child in psutil.Process().children(recursive=True)
        if "--type=renderer" in " ".join(child.cmdline())
    ]
    return max(child.memory_full_info().uss for child in pages) / 2**20


def timed(browser: Browser, work: Callable[[], None], seen: str) -> float:
    """Seconds until something is on the page."""
    start = time.perf_counter()
    work()
    browser.until(seen, seconds=300)
    return time.perf_counter() - start


def measure(browser: Browser, url: str, file: Path, edits: int, screen: dict) -> dict[str, float]:
    """All figures, in the order in which a hand would come to them."""
    found: dict[str, float] = {}
    found["seconds from the file to the picture"] = timed(
        browser, lambda: upload(browser, url, file, **screen), "true"
    )
    found["seconds from the file until it has been looked at"] = (
        timed(browser, lambda: None, READY) + found["seconds from the file to the picture"]
    )
    x, y = browser.middle("#stage")
    frames = {name: Moving() for name in ("pushing", "enlarging", "dragging what is selected")}
    browser.call("Performance.enable")
    browser.press("+", "+", "+", "+")
    time.sleep(2)
    with watched(browser, frames["enlarging"]):
        for key in "++--++--":
            browser.press(key)
            time.sleep(0.1)
    browser.value("document.querySelector('[data-tool=hand]').click()")
    reach = min(300, x - 20)
    with watched(browser, frames["pushing"]):
        browser.drag((x, y), (x - reach, y - 120), (x + reach, y + 60), (x, y), steps=60)
    browser.press("0", "p")
    settle(browser)
    browser.drag((x - 60, y), (x + 60, y + 20))
    settle(browser, SELECTED)
    browser.press("v")
    with watched(browser, frames["dragging what is selected"]):
        far = min(200, reach)
        browser.drag((x, y + 10), (x + far, y - 90), (x - far, y - 60), steps=90)
    filled(browser)
    for name, each in frames.items():
        found[f"{name}: ms from frame to frame, median"] = statistics.median(each.frames)
        found[f"{name}: ms from frame to frame, p95"] = share(each.frames, 0.95)
        found[f"{name}: ms of work a frame, mean"] = each.work
    memory = [memory_of(browser)]
    for number in range(edits):
        step(browser, number, x, y)
        if number % max(edits // 8, 1) == 0:
            settle(browser)
            memory.append(memory_of(browser))
    settle(browser)
    memory.append(memory_of(browser))
    found["MiB of the page, at first"] = memory[0]
    found[f"MiB of the page, at most in {edits} edits"] = max(memory)
    found[f"MiB of the page, after {edits} edits"] = memory[-1]
    return found


def step(browser: Browser, number: int, x: float, y: float) -> None:
    """One edit of a long session: marks, removals, undo, another view."""
    kind = number % 4
    if kind == 0:
        browser.press("Escape", "p")
        across, down = 0.55 * x, 0.35 * y  # what is marked lies in the picture on any screen
        a, b = x - across + 37 * number % (2 * across - 50), y - down + 53 * number % (2 * down - 10)
        browser.drag((a, b), (a + 50, b + 10))
    elif kind == 1:
        browser.press("Delete")
    elif kind == 2:
        browser.press("z", modifiers=CONTROL)
    else:
        browser.press("+" if number % 8 == 3 else "-")
    settle(browser)


def take_pictures(browser: Browser, url: str, model: Scripted, folder: Path, out: Path) -> None:
    """What docs/studio.md shows: the page at work, light, dark and on a phone."""
    out.mkdir(parents=True, exist_ok=True)
    file = folder / "astronaut.png"
    PIL.Image.fromarray(skimage.data.astronaut()).save(file)
    for name, screen in (
        ("studio", {"width": 1280, "height": 820}),
        ("studio-dark", {"width": 1280, "height": 820, "dark": True}),
        ("studio-phone", PHONE),
    ):
        upload(browser, url, file, **screen)
        settle(browser, "!document.querySelector('#chips').textContent.includes('Looking')")
        model.lines = list(SAID)
        for question in ASK:
            browser.value("document.querySelector('#question').focus()")
            browser.write(question)
            browser.press("Enter")
            browser.until("!document.querySelector('.waiting') && document.querySelector('.said.assistant')")
            time.sleep(0.5)
        browser.value("document.querySelector('#stage').focus()")
        browser.press("w")
        browser.drag(screen_of(browser, 225, 130))
        settle(browser, SELECTED)
        time.sleep(1)
        shown = PIL.Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        shown.quantize(256, PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.FLOYDSTEINBERG).save(
            out / f"{name}.png", optimize=True
        )


def main() -> None:
    """Measure and print, or take pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=8000)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    model = Scripted()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "studio", model, segments=True) as url,
        Browser() as browser,
    ):
        if options.pictures is not None:
            take_pictures(browser, url, model, Path(folder), options.pictures)
            return
        file = Path(folder) / "large.jpg"
        photo(options.side).save(file, quality=92)
        found = measure(browser, url, file, options.edits, PHONE if options.phone else DESK)
        assert name_of(browser) and state(browser, url)["size"][0] == options.side
    for name, value in found.items():
        print(f"{name:50} {value:10.2f}")
    print(json.dumps({"benchmark": "studio_page", "figures": found, "side": options.side, **facts()}))


if __name__ == "__main__":
    main()
