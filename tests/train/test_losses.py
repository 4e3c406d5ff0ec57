"""Losses by hand, and chunks that change nothing."""

import math

import pytest
import torch
from torch import nn

from llavakit.train.losses import weighted_cross_entropy


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
