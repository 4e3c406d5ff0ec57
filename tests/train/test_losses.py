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

    def run(size: int):
        hidden = torch.linspace(-1, 1, 60).view(10, 6).requires_grad_()
        loss, hits = weighted_cross_entropy(hidden, labels, weights, head, chunk=size)
        return loss, hits, *torch.autograd.grad(loss, (hidden, *head.parameters()))

    for mine, plain in zip(run(chunk), run(1000), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)
