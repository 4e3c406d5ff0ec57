"""Moments in bfloat16: right on average, so that a run learns as with float32, and resumes bit for bit."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from llavakit.train.half_moments import HalfAdamW, round_at_random
from llavakit.train.loop import train
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights

HALF = {"optim.moments": "bf16"}


def test_rounding_is_to_a_neighbour_and_right_on_average():
    torch.manual_seed(0)
    for value in (1.0, 1.001, -1.003, 3e-12, -7.5e5, 0.0):
        exact = torch.full((20_000,), value)
        rounded = round_at_random(exact).float()
        steps = rounded.unique()
        assert len(steps) <= 2 and steps.min() <= exact[0] <= steps.max()
        assert rounded.double().mean().item() == pytest.approx(value, rel=1e-4)


def test_a_second_moment_does_not_stand_still():
    """With a decay of 0.999 a step is below half of bfloat16's; to the nearest, it would end far too low."""
    torch.manual_seed(0)
    param = nn.Parameter(torch.zeros(1000))
    optimizer = HalfAdamW([param], lr=0.0)
    nearest = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(2000):
        param.grad = torch.full_like(param, 0.1)
        optimizer.step()
        nearest = (0.999 * nearest.float() + 0.001 * 0.01).bfloat16()
    expected = 0.01 * (1 - 0.999**2000)
    assert optimizer.state[param]["exp_avg_sq"].float().mean().item() == pytest.approx(expected, rel=0.02)
    assert nearest.item() < 0.6 * expected


def test_a_step_is_adamw_up_to_the_rounding_of_moments():
    torch.manual_seed(0)
    values, slopes = torch.randn(64, 8), [torch.randn(64, 8) for _ in range(5)]
    found = []
    for kind in (AdamW, HalfAdamW):
        param = nn.Parameter(values.clone())
        optimizer = kind([param], lr=1e-2, weight_decay=0.1)
        for slope in slopes:
            param.grad = slope.clone()
            optimizer.step()
        found.append(param.detach())
    assert (found[1] - found[0]).norm() < 0.02 * (found[0] - values).norm()


def test_a_run_learns_as_with_float32_and_resumes_bit_for_bit(tmp_path):
    plain, whole, cut = (
        tiny_run(tmp_path, name, **({} if name == "plain" else HALF)) for name in ("plain", "whole", "cut")
    )
    train(plain)
    train(whole)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.02)
