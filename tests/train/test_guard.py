"""Spikes: what is one, what happens then, and that a resumed run judges as if it had never stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llavakit.core.errors import UserError
from llavakit.model.directory import resolve
from llavakit.train.guard import FEWEST, LIMIT, WINDOW, Guard
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.objectives import SFT, LossSum
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights


def steady(steps: int = FEWEST) -> Guard:
    """A guard that has seen losses around 2 and norms around 1."""
    guard = Guard()
    for step in range(steps):
        assert guard.judge(step, 2 + 0.1 * (step % 3), 1 + 0.1 * (step % 2), "log").row == {}
    return guard


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [
        (2.2, 1.1, None),
        (3.0, 1.0, None),  # ten deviations of 0.1 and half of the median must both be passed
        (3.2, 1.0, "loss 3.2, median 2.1"),
        (2.0, 2.2, "norm 2.2, median 1"),
        (9.0, 50.0, "loss 9, median 2.1; norm 50, median 1"),
        (0.1, 0.01, None),  # falling is never a spike
    ],
)
def test_what_stands_far_above_the_newest_steps_is_a_spike(loss, norm, told):
    verdict = steady(FEWEST + 1).judge(99, loss, norm, "log")
    assert verdict.row.get("spike") == told
    assert not verdict.skip


def test_the_start_of_a_run_is_never_a_spike():
    guard = steady(FEWEST - 1)
    assert guard.judge(FEWEST, 100.0, 100.0, "skip").row == {}


def test_a_skipped_spike_is_counted_and_said(capsys):
    guard = steady()
    verdict = guard.judge(17, 9.0, 1.0, "skip")
    assert verdict.skip
    assert verdict.row == {"spike": "loss 9, median 2.1", "skipped": True}
    assert (guard.spikes, guard.skipped) == (1, 1)
    assert "step 17: spike: loss 9, median 2.1; step left out (1 so far)" in capsys.readouterr().out


def test_a_loss_that_stays_high_is_no_spike_for_ever():
    guard = steady(WINDOW)
    skipped = [guard.judge(step, 9.0, 1.0, "log").row != {} for step in range(WINDOW)]
    assert skipped[0] and not skipped[-1]


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (2.0, float("inf")), (2.0, float("nan"))])
def test_what_is_not_finite_stops_the_run_or_is_left_out_but_never_applied(loss, norm):
    with pytest.raises(UserError, match=r"step 5: loss .* not finite; lower optim.lr"):
        steady().judge(5, loss, norm, "log")
    guard = steady()
    before = list(guard.losses)
    assert guard.judge(5, loss, norm, "skip").skip
    assert guard.losses == before
    for step in range(LIMIT - 1):
        guard.judge(6 + step, loss, norm, "skip")
    with pytest.raises(UserError, match=f"{LIMIT} steps in a row were spikes"):
        guard.judge(99, loss, norm, "skip")


class Poisoned(SFT):
    """The loss of one chosen step is multiplied by a factor."""

    def __init__(self, rows: range, factor: float) -> None:
        self.rows, self.factor, self.seen = rows, factor, 0

    def loss(self, model, batch):
        sums = super().loss(model, batch)
        factor = self.factor if self.seen in self.rows else 1.0
        self.seen += 1
        return LossSum({unit: factor * term for unit, term in sums.terms.items()}, sums.report)


def test_a_step_that_is_left_out_changes_no_weight(tmp_path):
    """Two rows a step: rows 6 and 7 are step 4. It is the last one, so the weights stay those after step 3."""
    changes = {"optim.steps": 4, "save_every": 1, "keep": 9, "optim.on_spike": "skip"}
    run = tiny_run(tmp_path, **changes)
    train(run, objective=Poisoned(range(6, 8), float("nan")))
    rows = read_metrics(run.out / "metrics.jsonl")
    assert [row.get("skipped", False) for row in rows] == [False, False, False, True]
    assert rows[3]["spike"] == "not finite"
    now = weights(run)
    before = {
        key: tensor
        for file in (run.out / "step000003").glob("model*.safetensors")
        for key, tensor in load_file(file).items()
    }
    assert all(torch.equal(now[key], before[key]) for key in now)


def test_the_history_is_resumed_exactly(tmp_path):
    whole, cut = tiny_run(tmp_path, "whole"), tiny_run(tmp_path, "cut")
    train(whole)
    interrupt_after(cut, 3)
    stored = json.loads((resolve(cut.out) / "train_state.json").read_text())["guard"]
    assert stored["losses"] == losses(cut)
    train(cut, resume=True)
    mine, theirs = (
        json.loads((resolve(run.out) / "train_state.json").read_text())["guard"] for run in (cut, whole)
    )
    assert mine == theirs
    assert len(mine["norms"]) == 6
