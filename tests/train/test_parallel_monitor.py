"""What looks on, averages and adapters on two ranks: the numbers of one process, or one clear line."""

import pytest
import torch
from safetensors.torch import load_file

from llavakit.core.errors import ConfigError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.train.loop import train
from tests.train.test_loop import tiny_run
from tests.train.test_parallel import log_of, pair, train_rank, weights  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_evaluate_average_and_count_as_one_does(tmp_path, pair, mode):  # noqa: F811
    """Evaluation right before saves: what it gathered must not hide the weights from them."""
    changes = {"eval.files": tmp_path / "data.json", "eval.every": 2, "save_every": 2, "optim.ema": 0.5}
    one, two = tiny_run(tmp_path, "one", **changes), tiny_run(tmp_path, "two", **changes)
    two = two.model_copy(update={"parallel": two.parallel.model_copy(update={"mode": mode})})
    train(one)
    pair(train_rank, two)
    for mine, theirs in zip(log_of(two), log_of(one), strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "eval_loss", "eval_accuracy", "learned", "budget", "flops"):
            if name in theirs:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)
    averages = [load_file(resolve(run.out) / "ema" / "model.safetensors") for run in (two, one)]
    torch.testing.assert_close(*averages, atol=1e-4, rtol=1e-3)
    assert any(not torch.equal(averages[0][key], tensor) for key, tensor in weights(two).items())


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_adapters_of_two_ranks_are_those_of_one(tmp_path, pair, mode):  # noqa: F811
    changes = {"model.lora": "{r: 4, alpha: 8, dropout: 0.0}", "optim.ema": 0.5, "optim.steps": 3}
    one, two = tiny_run(tmp_path, "one", **changes), tiny_run(tmp_path, "two", **changes)
    two = two.model_copy(update={"parallel": two.parallel.model_copy(update={"mode": mode})})
    # Both start from the same draw: `train` seeds before adapters are made.
    train(one)
    pair(train_rank, two)
    for place in ("", "ema"):
        mine, theirs = (checkpoints.load(resolve(run.out) / place) for run in (two, one))
        torch.testing.assert_close(mine.model.state_dict(), theirs.model.state_dict(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes.file": "data.json"}, "no rank of a sharded model can answer alone"),
        ({"model.lora": "{r: 4, four_bit: true}"}, "four bits cannot be cut; use ddp"),
    ],
)
def test_what_a_sharded_model_cannot_do_is_refused(tmp_path, pair, changes, message):  # noqa: F811
    changes = {key: tmp_path / value if key == "probes.file" else value for key, value in changes.items()}
    run = tiny_run(tmp_path, **changes, **{"parallel.mode": "fsdp"})
    for said in pair(refused_rank, run):
        assert message in said


def refused_rank(rank, run):
    with pytest.raises(ConfigError) as error:
        train(run, answer=lambda *_: [])
    return str(error.value)
