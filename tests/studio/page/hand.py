"""What tests do with the page: open pictures, find points of them on the screen, wait until all is done."""

import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image

from tests.browser import Browser

IDLE = "document.querySelector('#stage').ariaBusy != 'true' && document.body.ariaBusy == 'false'"
SELECTED = "document.querySelector('#bar [data-act=grow]')"


def upload(browser: Browser, url: str, photo: Path, **screen) -> None:
    browser.open(url, **screen)
    browser.until("!document.querySelector('#welcome').hidden && document.body.ariaBusy == 'false'")
    browser.choose_file("#file", photo)
    browser.until(
        f"document.body.dataset.view == 'editor' && document.querySelector('#stage').dataset.rev && {IDLE}"
    )


def name_of(browser: Browser) -> str:
    return browser.value("location.hash").removeprefix("#")


def state(browser: Browser, url: str) -> dict:
    with urllib.request.urlopen(f"{url}/api/{name_of(browser)}") as answer:
        return json.loads(answer.read())


def seen(browser: Browser, url: str) -> np.ndarray:
    """int[h, w, 3]: the whole picture as it would be exported."""
    with urllib.request.urlopen(f"{url}/api/{name_of(browser)}/export/png") as answer:
        return np.asarray(PIL.Image.open(io.BytesIO(answer.read())).convert("RGB"), int)


def screen_of(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """A point of the picture on the screen, while all of it is seen: see `fit` of view.js."""
    words = browser.value("document.querySelector('#name').textContent")
    width, height = map(int, re.search(r"(\d+) × (\d+)", words).groups())
    left, top, across, down = browser.value(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('#stage').getBoundingClientRect())"
    )
    scale = min((across - 32) / width, (down - 80) / height, 4)
    return left + (across - width * scale) / 2 + x * scale, top + (down - 48 - height * scale) / 2 + y * scale


def colour_at(browser: Browser, x: float, y: float) -> np.ndarray:
    """int[3]: the mean of the screen around a point of the picture."""
    left, top = (round(each) for each in screen_of(browser, x, y))
    screen = np.asarray(PIL.Image.open(io.BytesIO(browser.screenshot())).convert("RGB"), int)
    return screen[top - 3 : top + 4, left - 3 : left + 4].mean((0, 1))


def settle(browser: Browser, then: str = "true") -> None:
    browser.until(f"{IDLE} && ({then})")


def filled(browser: Browser) -> None:
    """Wait until no preview of a fill is left."""
    settle(browser, "!document.querySelector('#chips').innerText.includes('Filling')")
