"""Small moments: right on average, so that a run learns as with float32, and resumes bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW

from llavakit.model.adapters import add_adapters
from llavakit.model.rounding import round_at_random
from llavakit.model.settings import LoraSettings
from llavakit.recipes import RECIPES
from llavakit.train.estimate import estimate_memory
from llavakit.train.loop import train
from llavakit.train.settings import OptimConfig
from llavakit.train.small_moments import (
    FIRST,
    SCALE,
    SECOND,
    Bytes,
    SmallAdamW,
    moment_bytes,
)
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights

FORMATS = ["bf16", "int8"]


def test_rounding_is_to_a_neighbour_and_right_on_average():
    random = torch.Generator().manual_seed(0)
    for value in (1.0, 1.001, -1.003, 3e-12, -7.5e5, 0.0):
        exact = torch.full((20_000,), value)
        rounded = round_at_random(exact, random).float()
        steps = rounded.unique()
        assert len(steps) <= 2 and steps.min() <= exact[0] <= steps.max()
        assert rounded.double().mean().item() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_bytes_are_right_on_average_and_near(name):
    """Of numbers over five orders of magnitude: the largest of a block exactly, others within a few hundredths."""
    torch.manual_seed(0)
    exact = torch.logspace(-5, 0, 100).repeat(4000, 1)
    if name == FIRST:
        exact[:, ::2] *= -1
    store = Bytes()
    state = store.make(exact)
    store.write(state, name, exact, torch.Generator())
    found = store.read(state, name)
    assert torch.equal(found[:, -1], exact[:, -1])
    assert torch.equal(found.sign().abs().amax(0), torch.ones(100))  # nothing is always zero
    torch.testing.assert_close(found.mean(0), exact[0], rtol=0.15 if name == FIRST else 0.02, atol=1e-6)
    large = exact[0].abs() > 0.1
    near = (found - exact)[:, large].abs().amax(0) / exact[0, large].abs()
    assert near.max() < (0.06 if name == FIRST else 0.03)


def test_a_second_moment_is_never_rounded_to_zero():
    """A step divides by its root: a first moment over nothing would be a leap."""
    exact = torch.tensor([[1.0, 1e-12, 1e-20]])
    store = Bytes()
    state = store.make(exact)
    store.write(state, SECOND, exact, torch.Generator())
    assert (store.read(state, SECOND) > 0).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(0, 3), columns=st.integers(1, 300), more=st.integers(1, 3))
def test_any_shape_is_blocks_of_its_rows(rows, columns, more):
    exact = torch.randn(rows, columns, more)
    store = Bytes()
    state = store.make(exact)
    assert state[FIRST + SCALE].shape == (rows, -(-columns * more // 128))
    store.write(state, FIRST, exact, torch.Generator())
    assert store.read(state, FIRST).shape == exact.shape


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_moment_does_not_stand_still(format):
    """With a decay of 0.999 a step is below half of bfloat16's; to the nearest, it would end far too low."""
    torch.manual_seed(0)
    param = nn.Parameter(torch.zeros(100, 10))
    optimizer = SmallAdamW([param], format, lr=0.0)
    nearest = torch.zeros((), dtype=torch.bfloat16)
    store = optimizer._matrices
    slopes = torch.full_like(param, 0.1)
    slopes[:, 0] = 0.3  # that the others are no largest ones
    for _ in range(2000):
        param.grad = slopes.clone()
        optimizer.step()
        nearest = (0.999 * nearest.float() + 0.001 * 0.01).bfloat16()
    expected = 0.01 * (1 - 0.999**2000)
    assert store.read(optimizer.state[param], SECOND)[:, 1:].mean().item() == pytest.approx(
        expected, rel=0.02
    )
    assert nearest.item() < 0.6 * expected


@pytest.mark.parametrize("format", FORMATS)
def test_a_step_is_adamw_up_to_the_rounding_of_moments(format):
    torch.manual_seed(0)
    values, slopes = torch.randn(64, 8), [torch.randn(64, 8) for _ in range(5)]
    found = []
    for kind in (AdamW, lambda params, **how: SmallAdamW(params, format, **how)):
        param = nn.Parameter(values.clone())
        optimizer = kind([param], lr=1e-2, weight_decay=0.1)
        for slope in slopes:
            param.grad = slope.clone()
            optimizer.step()
        found.append(param.detach())
    assert (found[1] - found[0]).norm() < 0.02 * (found[0] - values).norm()


@pytest.mark.parametrize("format", FORMATS)
def test_ranks_with_the_same_weights_round_alike(format):
    """Whole models on two ranks: what dropout draws differs there, their weights may not."""
    torch.manual_seed(0)
    values, slopes = torch.randn(40, 200), [torch.randn(40, 200) for _ in range(3)]
    found = []
    for rank in range(2):
        torch.manual_seed(rank)
        params = [nn.Parameter(values.clone()) for _ in range(2)]
        optimizer = SmallAdamW(params, format, lr=1e-2)
        for slope in slopes:
            for param in params:
                param.grad = slope.clone()
            optimizer.step()
        found.append(params)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
    assert not torch.equal(*found[0])  # each tensor draws its own


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_learns_as_with_float32_and_resumes_bit_for_bit(tmp_path, format):
    plain, whole, cut = (
        tiny_run(tmp_path, name, **({} if name == "plain" else {"optim.moments": format}))
        for name in ("plain", "whole", "cut")
    )
    train(plain)
    train(whole)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.02)


@pytest.mark.parametrize("format", ["float32", *FORMATS])
def test_what_is_kept_is_what_a_dry_run_tells(tmp_path, format):
    run = tiny_run(tmp_path).model_copy(update={"optim": OptimConfig(moments=format)})
    model = tiny.checkpoint().model
    told = estimate_memory(run, model).moments
    assert told == sum(p.numel() * moment_bytes(format, p.ndim) for p in model.parameters())
    large = nn.Parameter(torch.zeros(300, 256))
    optimizer = SmallAdamW([large], format)
    large.grad = torch.ones_like(large)
    optimizer.step()
    kept = sum(each.nbytes for name, each in optimizer.state[large].items() if name != "step")
    if format != "float32":
        assert kept == large.numel() * moment_bytes(format, 2)


def test_a_value_models_moments_are_counted_as_they_are(tmp_path):
    model, lora = tiny.checkpoint().model, LoraSettings(r=4, alpha=8, dropout=0.0)
    start = tiny_run(tmp_path).model.model_copy(update={"lora": lora})
    add_adapters(model, lora)
    learned = sum(p.numel() for p in model.language.parameters() if p.requires_grad)
    run = RECIPES["ppo"]().model_copy(update={"model": start})
    for format, bytes_each in (("float32", 16), ("int8", 8 + 2 * (1 + 4 / 128))):
        told = estimate_memory(run.model_copy(update={"optim": OptimConfig(moments=format)}), model)
        assert told.value == learned * bytes_each > 0
