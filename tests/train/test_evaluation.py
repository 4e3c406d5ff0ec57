"""Held-out loss: the objective's own number, the same every time, and nothing in the run feels it."""

import pytest
import torch

from llavakit.core.errors import ConfigError
from llavakit.data.loader import Loader
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.train.evaluation import evaluate
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.objectives import SFT
from llavakit.train.settings import EvalConfig
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights


def held_out(tmp_path, tokens: int = 96) -> Loader:
    config = EvalConfig(files=(tiny.data_file(tmp_path),)).data(DataConfig(tokens=tokens))
    return Loader(config, tiny.encoder(), seed=3)


def test_the_loss_is_that_of_one_row_with_everything_in_it(tmp_path):
    model, loader = tiny.checkpoint().model, held_out(tmp_path)
    found = evaluate(model, SFT(), loader, precision="float32")
    samples = [loader.samples(record) for record in loader.records]
    batch = collate(samples, [loader.tiles(media) for sample in samples for media in sample.media])
    with torch.no_grad():
        sums = SFT().loss(model, batch)
    assert found["eval_loss"] == pytest.approx(float(sums.terms["tokens"]) / batch.weight, rel=1e-5)
    assert found["eval_accuracy"] == pytest.approx(float(sums.report["accuracy"][1]) / batch.weight)
    assert evaluate(model, SFT(), loader, precision="float32") == found


def test_neither_mode_nor_random_state_change(tmp_path):
    model, loader = tiny.checkpoint().model, held_out(tmp_path)
    for training in (True, False):
        model.train(training)
        before = torch.get_rng_state()
        evaluate(model, SFT(), loader, precision="float32")
        assert model.training is training
        assert torch.equal(torch.get_rng_state(), before)


def test_the_first_rows_are_enough_if_asked(tmp_path):
    model, loader = tiny.checkpoint().model, held_out(tmp_path)
    few = evaluate(model, SFT(), loader, precision="float32", rows=1)
    assert few != evaluate(model, SFT(), loader, precision="float32")
    assert few == evaluate(model, SFT(), loader, precision="float32", rows=1)


def test_a_run_is_evaluated_every_few_steps_and_at_its_end_and_learns_the_same(tmp_path):
    plain = tiny_run(tmp_path, "plain")
    changes = {"eval.files": tmp_path / "data.json", "eval.every": 4}
    run, cut = tiny_run(tmp_path, "run", **changes), tiny_run(tmp_path, "cut", **changes)
    train(plain)
    train(run)
    assert losses(run) == losses(plain)
    assert all(torch.equal(weights(run)[key], tensor) for key, tensor in weights(plain).items())
    rows = read_metrics(run.out / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval_loss" in row] == [4, 6]
    interrupt_after(cut, 3)
    train(cut, resume=True)
    curve = [row.get("eval_loss") for row in read_metrics(cut.out / "metrics.jsonl")]
    assert curve == [row.get("eval_loss") for row in rows]


def test_what_only_looks_on_may_change_on_resume(tmp_path):
    run = tiny_run(tmp_path)
    interrupt_after(run, 2)
    train(tiny_run(tmp_path, **{"eval.files": tmp_path / "data.json", "eval.every": 5}), resume=True)
    rows = read_metrics(run.out / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval_loss" in row] == [5, 6]


def test_held_out_data_without_anything_learned_says_so(tmp_path):
    class Weightless(SFT):
        def weights(self, batch):
            return {"tokens": 0.0}

    with pytest.raises(ConfigError, match=r"eval.files: nothing there carries weight"):
        evaluate(tiny.checkpoint().model, Weightless(), held_out(tmp_path), precision="float32")
