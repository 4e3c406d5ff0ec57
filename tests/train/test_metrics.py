"""What a run tells: the fields of every step, curves, and TensorBoard where it is installed."""

import sys
from types import ModuleType

import pytest

from llavakit.train import events
from llavakit.train.loop import train
from llavakit.train.metrics import draw_curves, read_metrics
from tests.train.test_loop import tiny_run


def test_every_step_says_how_fast_and_how_full_it_was(tmp_path):
    run = tiny_run(tmp_path, **{"optim.steps": 3})
    train(run)
    for row in read_metrics(run.out / "metrics.jsonl"):
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["budget"] <= 1
        assert row["budget"] == pytest.approx(row["tokens"] / (2 * run.data.tokens))
        assert 0 < row["learned"] < row["tokens"]
        assert row["flops"] > 0 and row["mfu"] > 0


def test_the_picture_shows_held_out_loss_and_spikes(tmp_path):
    rows = [{"step": step, "loss": 3 / step} for step in range(1, 9)]
    draw_curves({"run": rows}, tmp_path / "plain.png")
    rows[3] |= {"eval_loss": 1.0}
    rows[7] |= {"eval_loss": 0.7, "spike": "loss 9, median 1"}
    draw_curves({"run": rows, "empty": []}, tmp_path / "more.png")
    plain, more = (tmp_path / "plain.png").read_bytes(), (tmp_path / "more.png").read_bytes()
    assert plain[:4] == more[:4] == b"\x89PNG"
    assert plain != more


def test_without_tensorboard_a_run_that_wants_it_says_so_once_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    train(tiny_run(tmp_path, **{"optim.steps": 2, "watch.tensorboard": True}))
    out = capsys.readouterr().out
    assert out.count("tensorboard is not installed: pip install 'llavakit[watch]'") == 1


def test_with_tensorboard_every_number_becomes_a_curve(tmp_path, monkeypatch):
    """The package stands in for itself: what its writer is told is what counts."""
    told: list[tuple] = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def flush(self):
            pass

    module = ModuleType("torch.utils.tensorboard")
    vars(module)["SummaryWriter"] = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(events, "find_spec", lambda name: module)
    run = tiny_run(tmp_path, **{"optim.steps": 2, "watch.tensorboard": True})
    train(run)
    assert told[0] == (str(run.out / "tensorboard"), 1)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert [entry for entry in told[1:] if entry[0] == "loss"] == [
        ("loss", row["loss"], row["step"]) for row in rows
    ]
    assert {entry[0] for entry in told[1:]} == set(rows[0]) - {"step"}
