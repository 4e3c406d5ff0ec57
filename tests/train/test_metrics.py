"""What a run tells: the fields of every step, curves, and TensorBoard where it is installed."""

from pathlib import Path

import PIL.Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llavakit.train import events
from llavakit.train.loop import train
from llavakit.train.metrics import Metrics, draw_curves, draw_panels, read_metrics
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


def test_with_tensorboard_every_number_becomes_a_curve(tmp_path):
    """Read back by TensorBoard itself. A run that goes on hides what a killed one wrote behind its checkpoint."""
    run = tiny_run(tmp_path, **{"optim.steps": 3, "watch.tensorboard": True})
    train(run)
    rows = read_metrics(run.out / "metrics.jsonl")
    curves = read_curves(run.out / "tensorboard")
    assert set(curves) == set(rows[0]) - {"step"}
    for name, points in curves.items():
        assert points == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    resumed = Metrics(run.out, done=1, tensorboard=True)
    resumed.add(rows[1] | {"loss": 7.0, "spike": {"loss": 7.0}})
    assert read_curves(run.out / "tensorboard")["loss"] == [(1, pytest.approx(rows[0]["loss"])), (2, 7.0)]


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every curve in a folder of event files."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_figures_of_some_steps_get_a_panel_each(tmp_path):
    rows = [
        {"step": at, "loss": 0.1 * (-1) ** at} | ({"reward": at / 9} if at % 2 else {}) for at in range(1, 9)
    ]
    draw_panels(rows, ["reward", "kl", "loss"], tmp_path / "rollouts.png")
    with PIL.Image.open(tmp_path / "rollouts.png") as picture:
        assert (picture.width, picture.height) == (1440, 264)
    draw_panels(rows, ["kl"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    draw_curves({"a policy's loss lies around zero": rows}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
