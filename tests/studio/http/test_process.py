"""`llavakit studio` as a process: an address is printed, `kill -9` loses nothing answered, Ctrl-C ends it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from tests.studio.http.served import png
from tests.studio.http.test_app import DRAWN, PHOTO

pytestmark = pytest.mark.slow


@contextmanager
def running(folder, *words: str):
    """The process and the address it prints."""
    command = [sys.executable, "-m", "llavakit", "studio", "--port", "0", *words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = next(line for line in process.stdout if line.startswith("open http"))
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


def ask(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if body else {})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def test_kill_9_loses_nothing_that_was_answered(tmp_path):
    (tmp_path / "sky.png").write_bytes(png(PHOTO))
    with running(tmp_path, "sky.png") as (process, address):
        place, name = address.split("/#")
        rev = ask(f"{place}/api/{name}")["rev"]
        for number, command in enumerate((DRAWN, {"do": "remove", "fill": "preview"})):
            body = {"id": f"command-{number}", "base_rev": rev, "command": command}
            rev = ask(f"{place}/api/{name}/commands", body)["rev"]
        before = ask(f"{place}/api/{name}")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running(tmp_path) as (process, place):
        after = ask(f"{place}/api/{name}")
        again = ask(f"{place}/api/{name}/commands", body)  # its answer may have been lost
        assert again["rev"] == rev == after["rev"] == before["rev"]
        assert after["holes"] == 1 and after["can_undo"] and after["versions"] == before["versions"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "a", "--remote", "b"], "exclude each other"),
        (["--model-name", "a"], "--remote"),
        (["--template", "a"], "--model"),
        (["--framed-by", "https://a.org; script-src *"], "framed_by"),
        (["gone.png"], "gone.png"),
        (["notes.txt"], "image"),
    ],
)
def test_mistakes_are_one_line(tmp_path, run, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    code, _, err = run("studio", "--port", "0", *words)
    assert code == 2 and said in err and "Traceback" not in err
