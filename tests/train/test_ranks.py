"""Ranks agree: on stopping, on what cannot be read, on who holds the directory; and each draws its own numbers."""

import json
import os
import re
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from llavakit.core.errors import ConfigError, DataError, Interrupted
from llavakit.model.directory import resolve
from llavakit.train.lock import hold_directory
from llavakit.train.loop import train
from llavakit.train.metrics import Metrics
from llavakit.train.ranks import ALONE, Ranks, tell_idle
from llavakit.train.run_directory import resume_command
from tests import tiny
from tests.train.test_loop import losses, tiny_run
from tests.train.test_parallel import pair, train_rank  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow


def test_sigterm_on_one_rank_stops_both_after_the_same_step(tmp_path, pair):  # noqa: F811
    run = tiny_run(tmp_path)
    first, second = pair(terminated_rank, run, 3, 1)
    assert first == second == (f"stopped at step 3 of 6; saved in {run.out}", 143)
    assert resolve(run.out).name == "step000003" and len(losses(run)) == 3


def terminated_rank(rank, run, steps, who):
    add = Metrics.add

    def press(self, row):
        add(self, row)
        if rank == who and row["step"] == steps:
            signal.raise_signal(signal.SIGTERM)

    Metrics.add = press
    try:
        with pytest.raises(Interrupted) as stopped:
            train(run)
    finally:
        Metrics.add = add
    return stopped.value.done, stopped.value.exit_code


@pytest.mark.parametrize(("mode", "per_step"), [("ddp", 2), ("ddp", 1), ("fsdp", 2)])
def test_ranks_with_broken_pictures_only_end_with_a_line(tmp_path, pair, mode, per_step):  # noqa: F811
    """No rank knows alone that the others cannot read anything either; with one row a step the second has none."""
    changes = {"data.on_bad": "skip", "data.window": 2, "parallel.mode": mode, "optim.rows": per_step}
    run = tiny_run(tmp_path, **changes)
    rows = [tiny.record(n, f"{n % 3}.png", [("What color is the shape?", "red")]) for n in range(6)]
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(path.read_bytes()[:120])
    for message in pair(unreadable_rank, run):
        assert message.startswith("nothing of a whole epoch could be read; the first: ")
        assert "data.json:" in message or (per_step == 1 and message.endswith("other ranks list them"))


def test_held_out_pictures_that_ranks_cannot_read_end_with_a_line(tmp_path, pair):  # noqa: F811
    changes = {"eval.files": tmp_path / "eval.json", "eval.every": 1, "data.on_bad": "skip"}
    run = tiny_run(tmp_path, **changes)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:120])
    rows = [tiny.record(n, "broken.png", [("What color is the shape?", "red")]) for n in range(4)]
    (tmp_path / "eval.json").write_text(json.dumps(rows, indent=1))
    for message in pair(unreadable_rank, run):
        assert message.startswith("eval.files: nothing could be read; the first: ")


def unreadable_rank(rank, run):
    with pytest.raises(DataError) as error:
        train(run)
    return str(error.value)


def test_a_directory_in_use_is_refused_on_every_rank(tmp_path, pair):  # noqa: F811
    run = tiny_run(tmp_path)
    with hold_directory(run.out, ALONE):
        first, second = pair(refused_rank, run)
    assert f"is in use by process {os.getpid()} on " in first and "the first rank says why" in second


def refused_rank(rank, run):
    with pytest.raises(ConfigError) as error:
        train(run)
    return str(error.value)


def test_every_rank_draws_dropout_of_its_own_on_weights_that_begin_alike(tmp_path, pair):  # noqa: F811
    changes = {"optim.steps": 1, "parallel.mode": "ddp", "train": "[connector, language]"}
    fresh = tiny_run(tmp_path, **changes)
    pair(train_rank, fresh)
    states = []
    for file in sorted(resolve(fresh.out).glob("train_state.rank*")):
        with safe_open(file, "pt") as opened:
            states.append(opened.get_tensor("random_cpu"))
    assert len(states) == 2 and not torch.equal(*states)
    alone = tiny_run(tmp_path, "alone", **changes)
    train(alone)  # no dropout here: the same loss, so the same weights at the start
    assert losses(fresh) == pytest.approx(losses(alone), rel=1e-5)
    assert Ranks(rank=1).seed(7) != Ranks(rank=2).seed(7) != Ranks(rank=2).seed(8)


@given(rows=st.integers(1, 300), tokens=st.integers(16, 8192), ranks=st.integers(1, 600))
def test_ranks_that_would_have_nothing_to_do_are_told(rows, tokens, ranks):
    """And what is told to do about it leaves none idle, with the tokens of a step that there were."""
    told = tell_idle(rows, tokens, ranks)
    busy = sum(1 for rank in range(ranks) if len(range(rank, rows, ranks)) == -(-rows // ranks))
    if busy == ranks:
        assert told == ""
        return
    assert f", {ranks - busy} of {ranks} ranks idle" in told
    said = {key: int(value) for key, value in re.findall(r"(optim\.rows|data\.tokens)=(\d+)", told)}
    assert tell_idle(said["optim.rows"], tokens, ranks) == ""
    if rows > ranks:
        step = said["optim.rows"] * said["data.tokens"]
        assert rows * tokens <= step < rows * tokens + 64 * said["optim.rows"]


def test_the_command_to_go_on_is_that_of_the_ranks(tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resume_command(out, Ranks(size=2)) == (
        f"torchrun --nproc-per-node 2 -m llavakit train {out}/run.yaml --resume"
    )
    assert resume_command(out, Ranks(size=4)) == (
        f"the same torchrun on every machine, with: -m llavakit train {out}/run.yaml --resume"
    )
