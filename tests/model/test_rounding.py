"""Changes that are smaller than a step of their weights are kept on average."""

import torch

from llavakit.model.rounding import add_fairly


def test_small_changes_are_kept_on_average():
    torch.manual_seed(0)
    weight = torch.randn(200, 300).to(torch.bfloat16)
    step = torch.finfo(torch.bfloat16).eps * weight.float().abs()
    for part in (0.02, 0.3, 1.7):
        change = part * step
        nearest = (weight + change).to(torch.bfloat16).float() - weight.float()
        fair = add_fairly(weight, change).float() - weight.float()
        assert abs(float(fair.sum() / change.sum()) - 1) < 0.05
        if part == 0.02:
            assert float(nearest.sum()) < 0.3 * float(change.sum())  # what would be lost
        assert ((fair - change).abs() <= step * (1 + 1e-6)).all()


def test_nothing_moves_without_a_change_and_sums_repeat():
    weight = torch.randn(33, 5).to(torch.bfloat16)
    assert torch.equal(add_fairly(weight, torch.zeros(33, 5)), weight)
    change = torch.randn(33, 5) / 1000
    assert torch.equal(add_fairly(weight, change), add_fairly(weight, change))
    assert torch.equal(add_fairly(-weight, -change), -add_fairly(weight, change))
    assert torch.equal(add_fairly(weight.float(), change), weight.float() + change)
