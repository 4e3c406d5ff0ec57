"""Compiled blocks compute what plain ones do: recomputed, sharded, with adapters, for rows of every length."""

import random
from itertools import islice

import pytest
import torch
from transformers import AttentionInterface

from llavakit.core.errors import ConfigError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.data.loader import Loader, Position
from llavakit.data.pack import collate
from llavakit.data.settings import DataConfig
from llavakit.model.adapters import (
    FIRST,
    add_adapters,
    add_second_adapter,
    use_adapter,
    without_adapters,
)
from llavakit.model.attention import NAME, registered_attention
from llavakit.model.settings import LoraSettings
from llavakit.train import compiling
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.freezing import train_only
from llavakit.train.loop import train, train_step
from llavakit.train.objectives import SFT
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights
from tests.train.test_parallel import Pair

GRAPHS = "aot_eager"  # everything but the generated code
CLOSE = {"atol": 1e-6, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def clean_compiler():
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit
    AttentionInterface.register(NAME, registered_attention)


@pytest.fixture
def batches(tmp_path):
    """Three rows; the samples of the last are without pictures."""
    data = DataConfig(files=(tiny.data_file(tmp_path),), tokens=200)
    return [batch for batch, _ in islice(Loader(data, tiny.encoder(), seed=0).batches(Position()), 3)]


def gradients(model, batches, precision="float32"):
    model.zero_grad()
    train_step(model, SFT(), batches, precision=precision)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def draw(dice):
    """A sample without pictures: one segment, or a beginning with two answers."""
    size = dice.randrange(6, 90)
    segments = (Segment(0, size),)
    if dice.random() < 0.5:
        segments = (Segment(0, size // 3), Segment(size // 3, size // 2, 0), Segment(size // 2, size, 0))
    return Sample(tuple(dice.choices(range(5, 200), k=size)), (1.0,) * size, segments, ())


@pytest.mark.parametrize("way", ["recomputed", "adapters"])
def test_gradients_are_those_of_plain_blocks(batches, monkeypatch, way):
    monkeypatch.setattr(compiling, "BACKEND", GRAPHS if way == "recomputed" else "eager")
    model = tiny.checkpoint().model.train()
    if way == "recomputed":
        train_only(model, ("tower", "connector", "language"))
        checkpoint_activations(model)
    else:
        add_adapters(model, LoraSettings(r=4, alpha=8, dropout=0.0))
    expected = gradients(model, batches)
    compiling.compile_blocks(model)
    gradients(model, batches[:2])
    with torch.compiler.set_stance("fail_on_recompile"):  # the third row is of another length
        torch.testing.assert_close(gradients(model, batches), expected, **CLOSE)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_four_roles_on_one_base_are_all_compiled(monkeypatch):
    """PPO's: what learns, the value model, two reward models, the reference; with gradients and without."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    model = tiny.checkpoint().model.train()
    add_adapters(model, LoraSettings(r=4, alpha=8, dropout=0.0))
    names = (FIRST, "value", "reward1", "reward2")
    for name in names[1:]:
        add_second_adapter(model.language, name)
    compiling.compile_blocks(model)
    batch = collate([draw(random.Random(0))])
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for learns in (True, False):
            model.train(learns)
            for name in names:
                use_adapter(model.language, name)
                with torch.set_grad_enabled(learns):
                    model.hidden(batch)
        with torch.no_grad(), without_adapters(model):
            model.hidden(batch)


def test_rows_of_all_lengths_are_the_same_graphs(monkeypatch):
    """Any number of samples, with branches and without, in a model with more blocks than graphs may be."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    dice = random.Random(0)
    model = tiny.checkpoint().model.train()
    compiling.compile_blocks(model)
    for number in range(50):
        batch = collate([draw(dice) for _ in range(dice.randrange(1, 5))])
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            gradients(model, [batch], "bf16")


def test_a_run_says_what_it_gained_and_goes_on_exactly(tmp_path, monkeypatch, capsys):
    """By the compiler that users have, bit for bit as if it had not been stopped."""
    for name, steps in (("PLAIN", 2), ("WARM", 1), ("COUNTED", 2)):
        monkeypatch.setattr(compiling, name, steps)
    plain, whole, cut = (
        tiny_run(tmp_path, name, compile=name != "plain") for name in ("plain", "whole", "cut")
    )
    train(plain)
    capsys.readouterr()
    train(whole)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compile:")]
    assert len(told) == 1 and "times as many as before" in told[0]
    interrupt_after(cut, 3)
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-3)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def train_compiled_rank(rank, run):
    compiling.BACKEND = "eager"
    train(run)


@pytest.mark.slow
def test_shares_of_a_model_are_compiled(tmp_path):
    one = tiny_run(tmp_path, "one")
    train(one)
    two = tiny_run(tmp_path, "two", **{"compile": True, "parallel.mode": "fsdp", "checkpointing": True})
    pair = Pair()
    try:
        pair(train_compiled_rank, two)
    finally:
        pair.stop()
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_a_machine_without_a_compiler_is_told(tmp_path):
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ConfigError, match=r"PyTorch's compiler does not work here \(.*compiler"),
    ):
        train(tiny_run(tmp_path, compile=True))
