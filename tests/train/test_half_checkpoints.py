"""Checkpoints in bf16 of a run in float32: half the size to load, and the run goes on bit for bit."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.model.formats.halves import lower_half, upper_half, whole
from llavakit.train.loop import train
from llavakit.train.ranks import Ranks
from llavakit.train.state import exact_tensors, restore_weights
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights
from tests.train.test_parallel import Pair, train_rank

HALF = {"saved": "bf16"}
LEARNED = {"optim.ema": 0.9, "train": "[tower,language]"}


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_two_halves_are_every_number(bits):
    """Ties, zeros of both signs, numbers too small for a leading one, infinities: bit for bit."""
    exact = torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)
    upper = upper_half(exact)
    assert torch.equal(whole(upper, lower_half(exact)).view(torch.int32), exact.view(torch.int32))
    plain = exact.isfinite() & upper.isfinite()
    nearest = (exact.bfloat16().double() - exact.double()).abs()
    assert torch.equal((upper.double() - exact.double()).abs()[plain], nearest[plain])


def test_a_run_goes_on_exactly_from_half_a_checkpoint(tmp_path):
    """Its weights are those of a run that saves float32, rounded; so is the average's."""
    exact, whole_run, cut = (
        tiny_run(
            tmp_path,
            name,
            **({} if name == "exact" else HALF),
            **{"optim.ema": 0.9, "train": "[tower,language]"},
        )
        for name in ("exact", "whole", "cut")
    )
    train(exact)
    train(whole_run)
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert losses(cut) == losses(whole_run) == losses(exact)
    for folder in ("", "ema"):
        mine, theirs = (checkpoints.load(resolve(each.out) / folder).model for each in (cut, exact))
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, upper_half(theirs.state_dict()[name])), name
    assert {tensor.dtype for tensor in weights(cut).values()} == {torch.bfloat16}
    assert json.loads((resolve(cut.out) / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
def test_shares_of_a_model_are_whole_again_on_any_number_of_ranks(tmp_path):
    pair, found = Pair(), []
    try:
        for name, more in (("exact", {}), ("half", HALF)):
            run = tiny_run(tmp_path, name, **{"parallel.mode": "fsdp", "optim.steps": 2, **more})
            pair(train_rank, run)
            model = checkpoints.load(resolve(run.out), dtype=torch.float32).model
            if more:
                restore_weights(model, resolve(run.out), Ranks())
            found.append(exact_tensors(model))
    finally:
        pair.stop()
    exact, half = found
    assert exact.keys() == half.keys() and all(torch.equal(half[name], exact[name]) for name in exact)


def test_adapters_are_saved_as_they_are(tmp_path):
    with pytest.raises(ConfigError, match="saved=bf16 is for whole models"):
        tiny_run(tmp_path, **{"model.lora": "{r: 4, alpha: 8}", **HALF})
