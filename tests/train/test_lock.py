"""One run at a time in a directory: who holds it is named, and what a dead one left is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llavakit.core.errors import ConfigError
from llavakit.train import lock
from llavakit.train.lock import NAME, hold_directory
from llavakit.train.ranks import ALONE

HOLDER = """
import sys, time
from pathlib import Path
from llavakit.train.lock import hold_directory
from llavakit.train.ranks import ALONE
with hold_directory(Path(sys.argv[1]), ALONE):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_by_name_until_the_first_is_dead(tmp_path, holder, capsys):
    who = rf"process {holder.pid} on {socket.gethostname()}"
    with (
        pytest.raises(ConfigError, match=rf"is in use by {who} \(since .*\); wait for it"),
        hold_directory(tmp_path, ALONE),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with hold_directory(tmp_path, ALONE):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert f"taken over from process {holder.pid}" in capsys.readouterr().out
    assert not (tmp_path / NAME).exists()


def test_two_runs_of_one_process_do_not_meet_either(tmp_path):
    refused = pytest.raises(ConfigError, match="is in use by process")
    with hold_directory(tmp_path, ALONE), refused, hold_directory(tmp_path, ALONE):
        pass
    with hold_directory(tmp_path, ALONE):
        pass


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A lock of a process on another host, where the kernel knows nothing of it."""
    monkeypatch.setattr(lock, "SILENT", 0.4)
    monkeypatch.setattr(lock, "BEAT", 0.1)
    (tmp_path / NAME).write_text(json.dumps({"host": "node7", "process": 12, "since": "2026-01-01 00:00:00"}))
    return tmp_path


def test_a_silent_holder_on_another_host_is_taken_over(elsewhere, capsys):
    with hold_directory(elsewhere, ALONE):
        assert json.loads((elsewhere / NAME).read_text())["host"] == socket.gethostname()
    told = " ".join(capsys.readouterr().out.split())
    assert "looking for a sign of life" in told and "taken over from process 12 on node7" in told


def test_a_living_holder_on_another_host_is_not(elsewhere, monkeypatch):
    sleep = time.sleep

    def beat(seconds):
        sleep(seconds)
        os.utime(elsewhere / NAME)

    monkeypatch.setattr(lock.time, "sleep", beat)
    with (
        pytest.raises(ConfigError, match="is in use by process 12 on node7"),
        hold_directory(elsewhere, ALONE),
    ):
        pass
    assert json.loads((elsewhere / NAME).read_text())["host"] == "node7"


def test_a_lock_of_long_ago_needs_no_waiting(elsewhere, monkeypatch):
    os.utime(elsewhere / NAME, (time.time() - 2 * lock.LONG_AGO,) * 2)
    monkeypatch.setattr(lock, "SILENT", 3600)
    with hold_directory(elsewhere, ALONE):
        pass


def test_the_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with hold_directory(tmp_path, ALONE):
        os.utime(tmp_path / NAME, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / NAME).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / NAME).stat().st_mtime > 0


def test_a_file_in_the_place_of_the_directory_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(ConfigError, match="run cannot be a run directory: "),
        hold_directory(tmp_path / "run", ALONE),
    ):
        pass


def test_a_directory_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(RuntimeError), hold_directory(tmp_path / "new" / "run", ALONE):
        raise RuntimeError
    assert not (tmp_path / "new" / "run").exists()
