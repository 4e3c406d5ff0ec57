"""SIGTERM, as schedulers send it: the step ends and is saved, or a line says that it did not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llavakit.core import config as settings
from llavakit.core.errors import Interrupted
from llavakit.model.directory import resolve
from llavakit.train import saving
from llavakit.train.loop import Loop, train
from llavakit.train.metrics import Metrics, read_metrics
from llavakit.train.state import State
from llavakit.train.stopping import StopRequest, listen
from tests.train.test_loop import losses, tiny_run, weights

SLOW = """
import os, sys, time
from pathlib import Path
from llavakit import cli
from llavakit.train import loop
step = loop.train_step
def slow(*args, **kwargs):
    Path(os.environ["STEPS"]).touch()
    time.sleep(float(os.environ["SECONDS"]))
    return step(*args, **kwargs)
loop.train_step = slow
cli.main()
"""


def start(run, tmp_path, seconds=0):
    settings.save(run, tmp_path / "run.yaml")
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "train", str(tmp_path / "run.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(Path.cwd()), "SECONDS": str(seconds), "STEPS": str(tmp_path / "steps")},
    )


def send(number, steps, monkeypatch, times=1):
    """The signal, right after the metrics show so many steps."""
    add = Metrics.add

    def press(self, row):
        add(self, row)
        if row["step"] == steps:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(Metrics, "add", press)


def test_sigterm_saves_the_step_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    whole, cut = tiny_run(tmp_path, "whole"), tiny_run(tmp_path, "cut")
    train(whole)
    with monkeypatch.context() as patch:
        send(signal.SIGTERM, 3, patch, times=2)  # schedulers repeat it
        with pytest.raises(Interrupted, match=r"stopped at step 3 of 6; .*--resume") as stopped:
            train(cut)
    assert stopped.value.exit_code == 143
    told = " ".join(capsys.readouterr().out.split())
    assert "SIGTERM: stopping after this step (steps take about 0." in told and "30 s to end (grace)" in told
    assert resolve(cut.out).name == "step000003"
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all((mine[key] == theirs[key]).all() for key in theirs)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_program_ends_with_143_and_one_line(tmp_path):
    run = tiny_run(tmp_path, save_every=1, keep=100, **{"optim.steps": 10_000})
    child = start(run, tmp_path)
    wait_for(run.out / "latest", child)
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 143, output
    done = len(losses(run))
    assert f"error: stopped at step {done} of 10000" in output and "Traceback" not in output
    assert resolve(run.out).name == f"step{done:06d}"
    assert not (run.out / ".llavakit.lock").exists()


def test_a_step_longer_than_the_grace_says_what_counts(tmp_path):
    run = tiny_run(tmp_path, save_every=1, grace=0.5)
    child = start(run, tmp_path, seconds=300)
    wait_for(tmp_path / "steps", child)
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 143, output
    told = " ".join(output.split())
    assert "step 1 did not end within 0.5 s of SIGTERM: not saved; nothing was saved before" in told
    train(run, resume=True)  # the lock it left is no obstacle
    assert len(read_metrics(run.out / "metrics.jsonl")) == 6


def wait_for(path, child):
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    assert path.exists()


def test_ctrl_c_after_sigterm_stops_at_once(tmp_path):
    with listen(tiny_run(tmp_path), State()) as request:
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_save_that_has_begun_is_not_cut_short(tmp_path, monkeypatch, when):
    ended = []
    monkeypatch.setattr(StopRequest, "_give_up", lambda self: ended.append(1))
    request = StopRequest(tiny_run(tmp_path, grace=0.05), State())
    if when == "before":
        request.receive(signal.SIGTERM)
    with request.saving():
        request.receive(signal.SIGTERM)
        time.sleep(0.2)
    assert not ended and request.number == signal.SIGTERM


def test_a_stop_during_a_save_waits_for_no_other_step(tmp_path, monkeypatch):
    run = tiny_run(tmp_path, save_every=2)
    save = saving.save_checkpoint

    def press(*given):
        save(*given)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(saving, "save_checkpoint", press)
    with pytest.raises(Interrupted, match="stopped at step 2 of 6"):
        train(run)
    assert len(losses(run)) == 2 and resolve(run.out).name == "step000002"


def test_nobody_is_kept_waiting_by_an_evaluation(tmp_path, monkeypatch):
    """A stop that is asked for before the held-out loss is computed does not wait for it."""
    run = tiny_run(tmp_path, **{"eval.files": tmp_path / "data.json", "eval.every": 1})
    step = Loop._timed_step

    def press(self, batches, began):
        row = step(self, batches, began)
        if row["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
        return row

    monkeypatch.setattr(Loop, "_timed_step", press)
    with pytest.raises(Interrupted):
        train(run)
    assert ["eval_loss" in row for row in read_metrics(run.out / "metrics.jsonl")] == [True, False]
