"""The running average of the weights: its arithmetic by hand, exact resume, and the checkpoint it becomes."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import AdamW

from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.train.ema import averaged, update_average
from llavakit.train.loop import train
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights


def test_the_average_by_hand():
    weight, idle = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([5.0]))
    optimizer = AdamW([weight, idle], lr=0.0, weight_decay=0.0)
    average = 2.0
    for step, value in enumerate([2.0, 4.0, 3.0]):
        weight.grad = torch.ones(1)
        optimizer.step()
        weight.data.fill_(value)  # as if the step had led there
        update_average(optimizer, 0.9)
        average = value if step == 0 else 0.9 * average + 0.1 * value
    assert optimizer.state[weight]["ema"].item() == pytest.approx(average)
    assert not optimizer.state.get(idle)  # nothing reached it: it is its own average
    with averaged(optimizer):
        assert weight.item() == pytest.approx(average)
        assert idle.item() == 5.0
    assert weight.item() == 3.0


def test_averages_are_float32_whatever_the_weights_are():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = AdamW([weight], lr=1e-3)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        update_average(optimizer, 0.999)
    assert optimizer.state[weight]["ema"].dtype == torch.float32
    with averaged(optimizer):
        assert weight.dtype == torch.bfloat16


def average_of(run) -> dict[str, torch.Tensor]:
    return load_file(resolve(run.out) / "ema" / "model.safetensors")


def test_a_run_with_averages_learns_the_same_and_leaves_both_models(tmp_path):
    plain, run = tiny_run(tmp_path, "plain"), tiny_run(tmp_path, "ema", **{"optim.ema": 0.5})
    train(plain)
    train(run)
    assert losses(run) == losses(plain)
    now, before = weights(run), weights(plain)
    assert all(torch.equal(now[key], before[key]) for key in now)
    mine = average_of(run)
    moved = {key.split(".")[0] for key in now if not torch.equal(mine[key], now[key])}
    assert moved == {"language_model", "multi_modal_projector"}
    checkpoints.load(resolve(run.out) / "ema")


def test_averages_resume_bit_for_bit(tmp_path):
    whole, cut = (tiny_run(tmp_path, name, **{"optim.ema": 0.9}) for name in ("whole", "cut"))
    train(whole)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    mine, theirs = average_of(cut), average_of(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
