"""The reference as numbers on disk: what copies of the weights give, without copies and without passes."""

import json
import math

import pytest
import torch

from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.train import stored_reference
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, weights
from tests.train.test_parallel import Pair, train_rank
from tests.train.test_preference import preference_run


@pytest.fixture(scope="module")
def pair():
    two = Pair()
    yield two
    two.stop()


@pytest.fixture
def passes(monkeypatch):
    """Rows that the reference computed."""
    rows, work = [], stored_reference.answer_logprobs

    def count(model, batch, length_weight):
        rows.append(batch)
        return work(model, batch, length_weight)

    monkeypatch.setattr(stored_reference, "answer_logprobs", count)
    return rows


def stored_run(tmp_path, name, **changes):
    return preference_run(tmp_path, name, **{"preference.reference": tmp_path / "reference"}, **changes)


def lines(tmp_path) -> list[str]:
    files = (tmp_path / "reference").glob("*/*.answers")
    return [line for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("loss", ["sigmoid", "mpo"])
def test_numbers_on_disk_are_the_weights_that_they_stand_for(tmp_path, passes, loss):
    copied = preference_run(tmp_path, "copied", **{"preference.loss": loss})
    train(copied)
    held_out = {"eval.files": f"[{copied.data.files[0]}]", "eval.every": 3}
    stored = stored_run(tmp_path, "stored", **{"preference.loss": loss}, **held_out)
    train(stored)
    mine, theirs = (read_metrics(run.out / "metrics.jsonl") for run in (stored, copied))
    for one, other in zip(mine, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["rewards/margins"] == pytest.approx(other["rewards/margins"], abs=1e-4)
    torch.testing.assert_close(weights(stored), weights(copied), rtol=1e-3, atol=1e-4)
    if loss == "sigmoid":
        assert mine[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert mine[-1]["eval_rewards/margins"] > 0
    assert len(lines(tmp_path)) == 12 and passes


def test_a_second_run_makes_no_pass_by_the_reference(tmp_path, passes, capsys):
    train(stored_run(tmp_path, "first"))
    assert "12 pair(s) computed" in capsys.readouterr().out
    passes.clear()
    again = stored_run(tmp_path, "again", **{"preference.beta": 0.1, "preference.loss": "ipo"})
    train(again)
    assert not passes and "reference: 0 pair(s) computed" in capsys.readouterr().out
    assert len(lines(tmp_path)) == 12


def test_fresh_adapters_of_any_shape_have_one_reference(tmp_path, passes):
    lora = {"train": "[language]", "model.lora": "{r: 4}"}
    first = stored_run(tmp_path, "first", **lora)
    train(first)
    assert losses(first)[0] == pytest.approx(math.log(2), abs=1e-5)
    passes.clear()
    train(stored_run(tmp_path, "other", **lora | {"model.lora": "{r: 2, dropout: 0.5}"}))
    assert not passes
    more = stored_run(tmp_path, "more", **lora, **{"model.start": first.out})
    train(more)  # goes on from trained adapters: another reference
    assert passes and losses(more)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_a_resumed_run_reads_the_numbers_it_began_with(tmp_path, passes):
    whole = stored_run(tmp_path, "whole")
    train(whole)
    cut = stored_run(tmp_path, "cut")
    passes.clear()
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert not passes and losses(cut) == losses(whole)
    assert all(torch.equal(weights(cut)[key], tensor) for key, tensor in weights(whole).items())


def test_a_line_that_was_half_written_is_computed_again(tmp_path, capsys):
    """kill -9 while the folder is filled: what is whole is used, the rest computed."""
    train(stored_run(tmp_path, "whole"))
    before = sorted(lines(tmp_path))
    [file] = (tmp_path / "reference").glob("*/*.answers")
    file.write_text(file.read_text()[:-3])
    capsys.readouterr()
    train(stored_run(tmp_path, "again"))
    assert "reference: 1 pair(s) computed" in capsys.readouterr().out
    keys = {line.split()[0] for line in before}
    whole = [line for line in lines(tmp_path) if line in before]
    assert {line.split()[0] for line in lines(tmp_path)} == keys and len(whole) >= 11


def test_what_changed_is_computed_anew_and_said(tmp_path, passes, capsys):
    first = stored_run(tmp_path, "first")
    train(first)
    capsys.readouterr()
    rows = json.loads(first.data.files[0].read_text())
    rows[0]["chosen"] = "purple, really"
    text = stored_run(tmp_path, "text")
    first.data.files[0].write_text(json.dumps(rows))  # preference_run writes the file anew
    train(text)
    assert "reference: 1 pair(s) computed" in capsys.readouterr().out
    picture = stored_run(tmp_path, "picture")
    tiny.picture(tmp_path / "x.png", seed=7)
    train(picture)
    assert "reference: 12 pair(s) computed" in capsys.readouterr().out
    assert losses(picture)[0] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("what", ["weights", "template", "precision"])
def test_another_start_is_another_reference(tmp_path, capsys, what):
    first = stored_run(tmp_path, "first", **{"optim.steps": 1})
    train(first)
    assert "another start's answers" not in capsys.readouterr().out
    changes = {"template": {"model.template": "qwen_1_5"}, "precision": {"precision": "bf16"}, "weights": {}}[
        what
    ]
    if what == "weights":  # of the same name
        moved = checkpoints.load(first.model.start)
        with torch.no_grad():
            moved.model.language.get_decoder().layers[0].mlp.up_proj.weight.mul_(1.5)
        checkpoints.save(moved, tmp_path / "moved")
        changes = {"model.start": tmp_path / "moved"}
    other = stored_run(tmp_path, "other", **changes, **{"optim.steps": 1})
    train(other)
    told = " ".join(capsys.readouterr().out.split())
    assert "another start's answers" in told and "12 pair(s) computed" in told
    assert losses(other)[0] == pytest.approx(math.log(2), abs=1e-2 if what == "precision" else 1e-5)


def test_a_loss_without_a_reference_refuses_a_folder_of_one(tmp_path):
    with pytest.raises(ConfigError, match=r"preference.reference=.*: no loss of simpo has one; drop it"):
        stored_run(tmp_path, "x", **{"preference.loss": "simpo"})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_fill_it_together(tmp_path, pair, mode):
    """Three rows a step: a rank has one too few, and the reference's passes too must be as many on each."""
    one = preference_run(tmp_path, "one", **{"optim.rows": 3, "data.tokens": 60})
    train(one)
    changes = {"optim.rows": 3, "data.tokens": 60, "parallel.mode": mode}
    copied, stored = preference_run(tmp_path, "copied", **changes), stored_run(tmp_path, "stored", **changes)
    for run in (copied, stored):
        pair(train_rank, run)
        assert losses(run) == pytest.approx(losses(one), rel=1e-4)
    assert len(lines(tmp_path)) == len({line.split()[0] for line in lines(tmp_path)}) == 12
    assert len(list((tmp_path / "reference").glob("*/*.answers"))) == 2
