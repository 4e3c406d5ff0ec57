"""Losses by hand, and chunks that change nothing."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llavakit.train import fused_loss
from llavakit.train.fused_loss import fused_cross_entropy
from llavakit.train.losses import weighted_cross_entropy
from tests.train.peak import Peak


def test_a_uniform_guess_costs_the_log_of_the_vocabulary():
    loss, hits = weighted_cross_entropy(
        torch.zeros(3, 4),
        torch.tensor([0, 1, 2]),
        torch.tensor([1.0, 1.0, 0.5]),
        lambda h: torch.zeros(len(h), 8),
    )
    assert math.isclose(loss.item(), 2.5 * math.log(8), rel_tol=1e-6)
    assert hits.item() == 1.0  # argmax of equal logits is token 0


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk):
    torch.manual_seed(0)
    head = nn.Linear(6, 11)
    labels, weights = torch.randint(0, 11, (10,)), torch.rand(10)

    def run(**sizes: int):
        hidden = torch.linspace(-1, 1, 60).view(10, 6).requires_grad_()
        loss, hits = weighted_cross_entropy(hidden, labels, weights, head, **sizes)
        return loss, hits, *torch.autograd.grad(loss, (hidden, *head.parameters()))

    for mine, plain in zip(run(whole=0, chunk=chunk), run(), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)


def test_no_more_rows_of_logits_exist_than_a_chunk():
    """Beyond what is computed whole, and up to it there is one call and nothing is computed twice."""
    seen: list[int] = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return hidden

    hidden, labels = torch.randn(10, 5, requires_grad=True), torch.zeros(10, dtype=torch.long)
    weighted_cross_entropy(hidden, labels, torch.ones(10), head, whole=10, chunk=4)[0].backward()
    assert seen == [10]
    weighted_cross_entropy(hidden, labels, torch.ones(10), head, whole=9, chunk=4)[0].backward()
    assert sorted(seen[1:]) == [2, 2, 4, 4, 4, 4]


@pytest.mark.parametrize("compiler", [None, pytest.param("inductor", marks=pytest.mark.compiler)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 70, 513, 600])
def test_the_fused_loss_is_the_plain_one(monkeypatch, rows, bias, compiler):
    """Loss, hits and all gradients, of rows that fill no chunk, several, or none at all; compiled too."""
    monkeypatch.setattr(fused_loss, "CHUNK", 256)
    torch.manual_seed(0)
    head = nn.Linear(16, 37, bias=bias)
    labels, weights = torch.randint(0, 37, (rows,)), torch.rand(rows)

    def run(loss_of):
        hidden = torch.randn(rows, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss, hits = loss_of(hidden)
        return loss, hits, *torch.autograd.grad(loss / 7, (hidden, *head.parameters()))

    mine = run(lambda hidden: fused_cross_entropy(hidden, labels, weights, head, compiler))
    plain = run(lambda hidden: weighted_cross_entropy(hidden, labels, weights, head))
    for ours, theirs in zip(mine, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_fused_loss_in_bf16_rounds_no_more_than_the_plain_one():
    torch.manual_seed(0)
    head, rows = nn.Linear(64, 300), 597  # no multiple of what products like
    hidden, labels, weights = torch.randn(rows, 64), torch.randint(0, 300, (rows,)), torch.ones(rows)

    def gradients(loss_of, precise=False):
        x = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            loss, _ = loss_of(x)
        return loss.detach(), *torch.autograd.grad(loss, (x, *head.parameters()))

    def plain(x):
        return weighted_cross_entropy(x, labels, weights, head)

    exact = gradients(plain, precise=True)
    fused = gradients(lambda x: fused_cross_entropy(x, labels, weights, head))
    for ours, theirs, true in zip(fused, gradients(plain), exact, strict=True):
        assert (ours - true).norm() <= 1.1 * (theirs - true).norm() + 1e-3 * true.norm()


def test_a_frozen_head_has_no_gradient_and_is_not_multiplied():
    head = nn.Linear(4, 9).requires_grad_(False)
    hidden = torch.randn(5, 4, requires_grad=True)
    fused_cross_entropy(hidden, torch.arange(5), torch.ones(5), head)[0].backward()
    assert head.weight.grad is None and hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_eight_thousand_rows_of_a_hundred_thousand_words_take_less_than_a_gigabyte(precision):
    """Forward and backward pass, the head's gradient of 350 MB included; shapes without numbers are enough."""
    rows, words, width = 8192, 152_000, 576
    with (
        FakeTensorMode(),
        Peak([]).watch() as peak,
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        head = nn.Linear(width, words, bias=False)
        hidden = torch.empty(rows, width, requires_grad=True)
        labels, weights = torch.empty(rows, dtype=torch.long), torch.empty(rows)
        held = peak.now
        fused_cross_entropy(hidden, labels, weights, head)[0].backward()
    assert head.weight.grad is not None
    assert peak.most - held < 2**30
