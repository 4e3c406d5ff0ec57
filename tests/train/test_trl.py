"""Parity with TRL's DPOTrainer on the same tokens, in an environment of its own (LLAVAKIT_TRL_PYTHON).

What it needs is in the head of benchmarks/dpo.py.
"""

import os
from pathlib import Path

import pytest

from benchmarks import dpo
from benchmarks.sft import build_model
from llavakit.model import checkpoint
from llavakit.train.loop import train

STEPS = 4


@pytest.mark.trl
def test_every_step_of_a_dpo_run_is_that_of_trl(tmp_path):
    """Loss, chosen log-probabilities and learned tokens, in float32, with a rate at which they move."""
    checkpoint.save(build_model(2, dpo.IMAGES[196]), tmp_path / "model")
    dpo.write_pairs(tmp_path, dpo.BATCH * (STEPS + 1))
    train(dpo.our_run(tmp_path, "ours", "full", STEPS, precision="float32"))
    ours = dpo.read_ours(tmp_path / "ours")
    peer = dpo.run_peer(Path(os.environ["LLAVAKIT_TRL_PYTHON"]), tmp_path, "full", STEPS, float32=True)
    dpo.check_same(ours, peer, tolerance=1e-4, close=1e-4)
    assert max(abs(loss - ours["losses"][0]) for loss in ours["losses"]) > 0.003  # the rate moves them
