"""Log-probabilities of labels: PyTorch's numbers in less memory."""

import pytest
import torch
from torch import nn

from llavakit.train.losses import LabelLogprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_those_of_the_softmax_forward_and_backward(dtype):
    """A few rows at a time: seven of 300,000 numbers are three pieces."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 300_000)).to(dtype).requires_grad_()
    labels, upstream = torch.randint(0, 300_000, (7,)), torch.randn(7)
    labels[2] = logits[2].float().argmax()
    plain = -nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    [expected] = torch.autograd.grad((plain * upstream).sum(), logits)
    found, hits = LabelLogprobs.apply(logits, labels, "hits")
    [gradient] = torch.autograd.grad((found * upstream).sum(), logits)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient, expected)
    assert gradient.dtype == dtype and hits.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert not LabelLogprobs.apply(logits, labels, None)[1].any()
    again, entropy = LabelLogprobs.apply(logits, labels, "entropy")
    torch.testing.assert_close(again, plain)
    exact = torch.distributions.Categorical(logits=logits.detach().double()).entropy()
    torch.testing.assert_close(entropy.double(), exact, rtol=0, atol=5e-4)  # float32 sums of 300,000 numbers
