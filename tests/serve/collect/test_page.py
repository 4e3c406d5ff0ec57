"""The page in a real browser: keys, buttons, going back, a server that ends and comes again, nothing but text."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from threading import Thread

import pytest
import uvicorn

from llavakit.align.collect.run import open_session
from llavakit.align.collect.session import Rules
from llavakit.data.records import read_records
from llavakit.serve.collect.app import create_collection
from llavakit.serve.listener import app_config, listen, place_of
from tests.align.collect.pairs import write_pairs
from tests.browser import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]
QUESTION = "document.querySelector('#question').innerText"
IDLE = "document.body.getAttribute('aria-busy') == 'false'"
SHOWN = (
    f"{IDLE} && !document.querySelector('#task').hidden && [...document.images].some(i => i.naturalWidth > 0)"
)


@contextmanager
def collecting(folder, *options: str, port: int = 0):
    """The address of `llavakit collect` as a process of its own."""
    command = [
        sys.executable, "-m", "llavakit", "collect", "pairs.jsonl", "--out", "out.votes", "--port", str(port),
        "--key", "s&c+e/t%", *options,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = next(line for line in process.stdout if line.startswith("open http"))
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0


@contextmanager
def serving(folder, pairs: int | dict, annotator: str | None = None, port: int = 0):
    """The same in this process, of so many pairs or of one that is given."""
    file = write_pairs(folder, pairs if isinstance(pairs, int) else 1)
    if isinstance(pairs, dict):
        file.write_text(json.dumps(pairs))
    with (
        open_session([file], folder / "out.votes", [], Rules()) as session,
        closing(listen("127.0.0.1", port)) as listener,
    ):
        server = uvicorn.Server(app_config(create_collection(session, "secret", annotator)))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"{place_of(listener)}/#key=secret"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "out.votes").read_text().splitlines()]


def said(row: dict, name: str) -> str:
    """Where the answer stood that a question was answered with."""
    return "left" if row[name] == row["left"] else "right" if row[name] in (1, 2) else row[name]


def answered(browser: Browser, count: int) -> None:
    """Wait until so many are done and the next pair can be judged."""
    browser.until(f"document.querySelector('#count').innerText.startsWith('{count} done') && {SHOWN}")


def test_somebody_judges_with_keys_and_buttons(tmp_path, browser):
    write_pairs(tmp_path, 4)
    with collecting(tmp_path) as url:
        browser.open(url)
        browser.until("document.activeElement.id == 'name'")
        assert browser.value("location.hash") == ""  # the key is not left on the screen
        browser.press(*"ada", "Enter")
        answered(browser, 0)
        assert browser.value(QUESTION) == "Which answer is less hallucinated?"
        browser.press("1")
        answered(browser, 1)
        browser.press("t")
        browser.until(f"{QUESTION}.includes('more helpful') && {IDLE}")
        browser.press("Backspace")  # back to the first question of the same pair
        browser.until(f"{QUESTION}.includes('less hallucinated?') && {IDLE}")
        browser.press("t")
        browser.until(f"{QUESTION}.includes('more helpful') && {IDLE}")
        browser.press("ArrowRight")
        answered(browser, 2)
        browser.click("[data-choice=both_bad]")
        answered(browser, 3)
        browser.press("Backspace")  # to the pair before, with what was said of it
        browser.until(f"document.querySelector('.chosen')?.dataset.choice == 'both_bad' && {IDLE}")
        browser.click(".answer[data-choice=left]")
        answered(browser, 3)
        browser.press("s")
        browser.until("!document.querySelector('#end').hidden")
    rows = rows_of(tmp_path)
    assert [(said(row, "hallucination"), said(row, "helpfulness")) for row in rows] == [
        ("left", None), ("tie", "right"), ("both_bad", None), ("left", None), ("skip", None),
    ]  # fmt: skip
    assert rows[2]["item"] == rows[3]["item"] and {row["annotator"] for row in rows} == {"ada"}
    assert all(0 < row["seconds"] < 30 for row in rows)
    assert len(read_records(tmp_path / "out.votes")) == 4


def test_a_server_that_ends_loses_nothing_and_is_told(tmp_path, browser):
    with serving(tmp_path, 3, "ada") as url:
        browser.open(url)
        answered(browser, 0)
        browser.press("2")
        answered(browser, 1)
    browser.press("1")
    browser.until("document.querySelector('#trouble').innerText.includes('Not kept')")
    with serving(tmp_path, 3, "ada", port=int(re.search(r":(\d+)/", url)[1])):
        browser.press("1")
        answered(browser, 2)
        assert browser.value("document.querySelector('#trouble').hidden")
    assert [said(row, "verdict") for row in rows_of(tmp_path)] == ["right", "left"]


def test_what_models_wrote_is_text(tmp_path, browser):
    evil = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    row = {"image": "x.png", "prompt": f"{evil} Which?", "chosen": evil, "rejected": f"{evil} 2"}
    with serving(tmp_path, row, evil[:40]) as url:
        browser.open(url, width=390, height=844, dark=True)
        answered(browser, 0)
        texts = browser.value("[...document.querySelectorAll('.answer .text')].map(n => n.textContent)")
        assert sorted(texts) == [evil, f"{evil} 2"]
        assert browser.value("document.querySelectorAll('script').length") == 1
        assert browser.value("document.title") == "Which answer is better?"
        assert browser.value("document.documentElement.scrollWidth") <= 390


def test_a_wrong_key_is_told(tmp_path, browser):
    with serving(tmp_path, 1) as url:
        browser.open(url.replace("secret", "wrong"))
        browser.until("document.querySelector('#trouble').innerText.includes('llavakit collect printed')")
    assert rows_of(tmp_path) == []
