"""Parity with TRL's DPO, KTO, GRPO and RLOO trainers on the same tokens.

TRL lives in an environment of its own, whose python LLAVAKIT_TRL_PYTHON names; what it needs is in the head of
benchmarks/dpo.py.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import dpo, grpo
from benchmarks.sft import build_model
from llavakit.align.drawn import Sampled
from llavakit.align.opening import open_policy
from llavakit.align.sampler import EngineSampler
from llavakit.model import checkpoint
from llavakit.train.kto_settings import KtoConfig
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics

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


@pytest.mark.trl
def test_every_step_of_a_kto_run_is_that_of_trl(tmp_path):
    """One batch that holds all answers: there TRL's neighbours in the batch are ours in the file."""
    checkpoint.save(build_model(2, dpo.IMAGES[196]), tmp_path / "model")
    dpo.write_pairs(tmp_path, dpo.BATCH)
    for name in ("ours", "trl"):
        rows = json.loads((tmp_path / f"{name}.json").read_text())
        for number, row in enumerate(rows):
            chosen, rejected = row.pop("chosen"), row.pop("rejected")
            row |= {"completion": chosen if number % 2 else rejected, "label": bool(number % 2)}
            if name == "ours":
                row["images"] = [row.pop("image")]
        (tmp_path / ("kto.json" if name == "trl" else "ours.json")).write_text(json.dumps(rows))
    run = dpo.our_run(tmp_path, "ours", "full", STEPS, precision="float32")
    kto = KtoConfig(beta=0.5, desirable_weight=1.5, undesirable_weight=0.5)
    train(run.model_copy(update={"preference": None, "kto": kto}))
    ours = read_metrics(tmp_path / "ours" / "metrics.jsonl")
    command = [os.environ["LLAVAKIT_TRL_PYTHON"], str(Path(__file__).with_name("kto_peer.py")), str(tmp_path)]
    command += [f"--steps={STEPS}", f"--batch={dpo.BATCH}", f"--rate={dpo.RATE}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert [row["loss"] for row in ours] == pytest.approx(theirs["loss"], abs=1e-4)
    assert [row["kl"] for row in ours] == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-3)
    assert max(abs(loss - theirs["loss"][0]) for loss in theirs["loss"]) > 0.003  # the rate moves them


@pytest.mark.trl
@pytest.mark.parametrize(("algorithm", "iterations"), [("grpo", 1), ("grpo", 2), ("rloo", 1)])
def test_every_step_on_answers_that_trl_sampled_is_that_of_trl(tmp_path, monkeypatch, algorithm, iterations):
    """Rewards, losses and divergences in float32, with answers of several lengths; GRPO once and twice on each."""
    words, rate = 12, 1e-4
    checkpoint.save(build_model(2, grpo.IMAGES[196]), tmp_path / "model")
    grpo.write_prompts(tmp_path, grpo.PROMPTS * (STEPS + 1))
    asked = [f"--algorithm={algorithm}", f"--iterations={iterations}", "--float32", "--uneven"]
    python = Path(os.environ["LLAVAKIT_TRL_PYTHON"])
    theirs = grpo.run_peer(python, tmp_path, STEPS, words, *asked, rate=rate)
    rounds = iter(theirs["said"])

    def said(self, asked):
        """What TRL's model answered, in the place of what ours would."""
        assert len(list(asked)) == grpo.PROMPTS
        answers = [
            Sampled(ids, [0.0] * len(ids), self.tokenizer.decode(ids).strip(), "stop") for ids in next(rounds)
        ]
        return [answers[at : at + grpo.ANSWERS] for at in range(0, len(answers), grpo.ANSWERS)]

    monkeypatch.setattr(EngineSampler, "answers", said)
    settings = {"precision": "float32", "rate": rate, "epochs": iterations, "algorithm": algorithm}
    train(grpo.our_run(tmp_path, "ours", STEPS, words, **settings), policy=open_policy)
    ours = read_metrics(tmp_path / "ours" / "metrics.jsonl")
    rounds_told = [row for row in ours if "reward" in row]
    assert [row["reward"] for row in rounds_told] == pytest.approx(theirs["rewards"], abs=1e-5)
    if algorithm == "grpo":  # its divergence is part of the loss
        assert [row["kl_reference"] for row in ours] == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-6)
        assert [row["loss"] for row in ours] == pytest.approx(theirs["losses"], abs=1e-4)
    else:  # TRL's is a mean over the tokens, ours over the answers
        nats = [row["kl"] / row["length"] for row in ours]
        assert nats == pytest.approx(theirs["kl"], rel=1e-3, abs=1e-6)
    assert theirs["kl"][-1] > 1e-3  # the rate moves them
