"""Two ranks compute what one does: whole models and sharded ones, uneven rows, rows without pictures, resuming."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from llavakit.cli.entry import app
from llavakit.core import config as settings
from llavakit.core.errors import CheckpointError, ConfigError, Interrupted
from llavakit.data.loader import Loader, Position
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import resolve
from llavakit.model.llava import Llava, Newline
from llavakit.train import sharding
from llavakit.train.activation_checkpointing import checkpoint_activations
from llavakit.train.balance import idle_batch
from llavakit.train.freezing import train_only
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.objectives import SFT
from llavakit.train.optim import build_optimizer
from llavakit.train.ranks import Ranks
from llavakit.train.state import load_state, read_state
from tests import tiny
from tests.preloaded import HEAVY
from tests.train.test_kto import kto_run
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights
from tests.train.test_reward import reward_run

pytestmark = pytest.mark.slow


class Pair:
    """Two processes that live as long as the module's tests: starting one costs more than a test.

    After a failure both are killed, so that no later test talks to a rank that still waits for something.
    """

    def __init__(self):
        self.ranks = []

    def __call__(self, work, *args):
        """What `work(rank, *args)` gives on both ranks, run as `torchrun` would run it."""
        if not self.ranks:
            self.start()
        port = free_port()
        for _, pipe in self.ranks:
            pipe.send((port, work, args))
        answers = [pipe.recv() if pipe.poll(200) else (False, "a rank hangs") for _, pipe in self.ranks]
        if not all(good for good, _ in answers):
            self.stop()
            pytest.fail("\n".join(answer for good, answer in answers if not good))
        return [answer for _, answer in answers]

    def start(self):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(HEAVY)  # imported once, not by every rank of every module of tests
        for rank in range(2):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, theirs), daemon=True)
            process.start()
            self.ranks.append((process, mine))

    def stop(self):
        for process, _ in self.ranks:
            process.kill()
        self.ranks = []


def serve(rank, pipe):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    while True:
        port, work, args = pipe.recv()
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            pipe.send((True, work(rank, *args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            return


@pytest.fixture(scope="module")
def pair():
    two = Pair()
    yield two
    two.stop()


def train_rank(rank, run, resume=False):
    train(run, resume=resume)


MODES = {
    "whole models": {"parallel.mode": "ddp"},
    "sharded": {"parallel.mode": "fsdp"},
    "weights kept for the backward pass": {"parallel.mode": "fsdp", "parallel.reshard": "false"},
    "two copies": {"parallel.mode": "fsdp", "parallel.replicas": 2},
    "in the host's memory": {"parallel.mode": "fsdp", "parallel.offload": "true"},
    "recomputing": {"parallel.mode": "fsdp", "checkpointing": "true"},
}


def mixed_run(folder, name, *, rows, **changes):
    """A row a record, everything trained. Of the steps of two rows, the first two have a picture on one rank only,
    the third has none at all: there, tower and connector must stay as they are, decay and momentum or not."""
    run = tiny_run(folder, name, **{"optim.rows": rows, "optim.weight_decay": 0.1, "data.window": 1})
    pictures = [True, False, False, True, False, False, True, True]
    records = [
        tiny.record(
            number, f"{number % 3}.png" if with_picture else None, [("What color is the shape?", "red")]
        )
        for number, with_picture in enumerate(pictures)
    ]
    (folder / "data.json").write_text(json.dumps(records, indent=1))
    more = ["data.shuffle=false", "train=[tower, connector, language]"]
    return settings.override(run, more + [f"{key}={value}" for key, value in changes.items()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run by one process, for steps of two and of three rows."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {rows: mixed_run(folder, f"rows{rows}", rows=rows) for rows in (2, 3)}
    for run in runs.values():
        train(run)
    return runs


@pytest.mark.parametrize(
    ("mode", "rows"), [*((mode, 2) for mode in MODES), ("whole models", 3), ("sharded", 3)]
)
def test_two_ranks_compute_what_one_does(tmp_path, pair, alone, mode, rows):
    """Pictures on one rank only, on none, and with three rows a rank that has one too few."""
    run, one = mixed_run(tmp_path, "two", rows=rows, **MODES[mode]), alone[rows]
    pair(train_rank, run)
    for mine, theirs in zip(log_of(run), log_of(one), strict=True):
        for name in ("step", "loss", "accuracy", "tokens", "lr_tower"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name
        assert mine["norm"] == pytest.approx(theirs["norm"], rel=1e-4)
    torch.testing.assert_close(weights(run), weights(one), atol=1e-4, rtol=1e-3)
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    checkpoints.load(run.out)


def test_two_ranks_measure_the_divergence_that_one_does(tmp_path, pair):
    """KTO's losses are measured from a mean over the rows of all ranks."""
    loss = {"kto.undesirable_weight": 0}  # else answers to other prompts get rarer too, which counts as 0
    one, two = kto_run(tmp_path, "one", **loss), kto_run(tmp_path, "two", **loss, **MODES["sharded"])
    train(one)
    pair(train_rank, two)
    log = log_of(one)
    assert max(row["kl"] for row in log) > 0.01
    for mine, theirs in zip(log_of(two), log, strict=True):
        for name in ("loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/accuracies"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)


def test_two_ranks_teach_the_reward_model_that_one_does(tmp_path, pair):
    """One of them has a row less in every step, and of the head, one row, a rank has nothing."""
    steps = {"optim.rows": 3, "optim.steps": 3}
    one, two = reward_run(tmp_path, "one", **steps), reward_run(tmp_path, "two", **steps, **MODES["sharded"])
    train(one)
    pair(train_rank, two)
    for mine, theirs in zip(log_of(two), log_of(one), strict=True):
        for name in ("loss", "accuracy", "score_lowest", "score_highest", "length_correlation"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    assert "score.weight" in weights(two)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)


def test_a_decoder_that_runs_one_sequence_at_a_time_trains_on_shares(tmp_path, pair):
    """Rows of many lengths need more passes through the decoder on one rank than on the other."""
    start = tiny.checkpoint()
    torch.manual_seed(0)
    shape = start.model.language.config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    config = Lfm2Config(
        **{name: shape[name] for name in names}, layer_types=["conv", "full_attention"], num_hidden_layers=2,
        max_position_embeddings=512, pad_token_id=None,
    )  # fmt: skip
    start.model = Llava(start.model.tower, start.model.connector, Lfm2ForCausalLM(config))
    checkpoints.save(start, tmp_path / "start")
    tiny.data_file(tmp_path)
    rows = {"data.tokens": 80}  # of which some hold one sequence that is less than half as long as the other
    one, two = tiny_run(tmp_path, "one", **rows), tiny_run(tmp_path, "two", **rows, **MODES["sharded"])
    train(one)
    pair(train_rank, two)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=1e-3)


def log_of(run):
    return read_metrics(run.out / "metrics.jsonl")


@pytest.mark.parametrize("mode", ["whole models", "sharded", "two copies"])
def test_the_same_ranks_resume_bit_for_bit(tmp_path, pair, mode):
    """Ctrl-C on one rank stops both after the same step, with one checkpoint."""
    whole, cut = (tiny_run(tmp_path, name, **MODES[mode]) for name in ("whole", "cut"))
    pair(train_rank, whole)
    pair(interrupt_rank, cut, 3, 0)
    assert [path.name for path in cut.out.glob("step*")] == ["step000003"]
    assert len(list(resolve(cut.out).glob("train_state.rank*"))) == 2
    pair(train_rank, cut, True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def interrupt_rank(rank, run, steps, who):
    if rank == who:
        interrupt_after(run, steps)
        return
    with pytest.raises(Interrupted, match=f"stopped at step {steps}"):
        train(run)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_another_number_of_ranks_resumes(tmp_path, pair, first, then):
    """Moments are cut and joined by rows: 1 -> 2 and 2 -> 1, sharded."""
    whole, cut = (tiny_run(tmp_path, name, **{"parallel.mode": "fsdp"}) for name in ("whole", "cut"))
    train(whole)
    if first == 1:
        interrupt_after(cut, 3)
        pair(train_rank, cut, True)
    else:
        pair(interrupt_rank, cut, 3, 1)
        train(cut, resume=True)
    assert read_state(resolve(cut.out)).ranks == then
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5)
    torch.testing.assert_close(weights(cut), weights(whole), atol=1e-4, rtol=1e-3)


def test_the_policy_of_gpus_in_bf16_stays_near(tmp_path, pair):
    """bf16 weights instead of autocast's bf16 products: other roundings, the same curve."""
    changes = {"precision": "bf16", "checkpointing": "true"}
    one = mixed_run(tmp_path, "one", rows=2, **changes)
    two = mixed_run(tmp_path, "two", rows=2, **changes, **MODES["sharded"])
    train(one)
    pair(train_rank_as_on_a_gpu, two)
    assert losses(two) == pytest.approx(losses(one), rel=0.03)
    assert losses(two) != pytest.approx(losses(one), rel=1e-4)  # the policy was in force
    assert {value.dtype for value in weights(two).values()} == {torch.float32}


def train_rank_as_on_a_gpu(rank, run):
    policy = sharding.precision_policy
    sharding.precision_policy = lambda precision, _: policy(precision, torch.device("cuda"))
    try:
        train(run)
    finally:
        sharding.precision_policy = policy


def test_one_rank_fills_the_feature_cache_for_all(tmp_path, pair):
    """Stage 1 with cached features: the rank without pictures has no row for the connector, and does not hang."""
    runs = [
        mixed_run(
            tmp_path,
            name,
            rows=2,
            train="[connector, language]",
            **MODES["sharded"],
            **{"data.features": tmp_path / f"features-{name}"},
        )
        for name in ("one", "two")
    ]
    train(runs[0])
    pair(train_rank, runs[1])
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-5)
    [keys] = (tmp_path / "features-two").glob("*/*.keys")
    assert len(keys.read_text().splitlines()) == 2  # two different pictures, each once


def test_using_all_parts_reaches_each_and_changes_no_value():
    """Text only: connector and newline get gradients, of zero, and the decoder sees what it saw."""
    model = tiny.checkpoint().model
    model.newline = Newline(("image_newline",), 48)
    batch = idle_batch()
    touched = replace(batch, features_RC=torch.ones(1, model.tower.width), use_all_parts=True)
    x_TD = model.embed(touched)
    assert torch.equal(x_TD, model.embed(batch))
    x_TD.square().sum().backward()
    for param in (*model.connector.parameters(), *model.newline.parameters()):
        assert param.grad is not None and not param.grad.any()


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_moments_are_the_same_numbers_for_any_number_of_ranks(tmp_path, pair, format):
    """What two ranks wrote, one reads and writes: the moments of every parameter have their whole shape again."""
    run = tiny_run(tmp_path, **{"parallel.mode": "fsdp", "optim.steps": 2, "optim.moments": format})
    pair(train_rank, run)
    folder = resolve(run.out)
    model = checkpoints.load(folder).model
    train_only(model, run.train)
    optimizer = build_optimizer(model, run.optim)
    load_state(optimizer, model, folder, Ranks())
    for name, param in model.named_parameters():
        if param.requires_grad:
            state = optimizer.state[param]
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == param.shape, name
            assert state["exp_avg"].abs().sum() > 0 or "embed" in name
            if format == "int8" and param.ndim == 2:
                assert state["exp_avg_scale"].shape == (len(param), -(-param.shape[1] // 128)), name
            assert float(state["step"]) == 2
    (folder / "train_state.rank00001-of-00002.safetensors.state").unlink()
    with pytest.raises(CheckpointError, match=r"rank00001-of-00002.*cannot be read"):
        load_state(optimizer, model, folder, Ranks())


def test_copies_that_do_not_divide_the_ranks_are_refused(tmp_path, pair):
    run = tiny_run(tmp_path, **{"parallel.mode": "fsdp", "parallel.replicas": 3})
    for message in pair(refused_rank, run):
        assert message == "parallel.replicas=3 does not divide the 2 ranks"


def refused_rank(rank, run):
    with pytest.raises(ConfigError) as error:
        train(run)
    return str(error.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_starts_it_and_a_signal_saves_once(tmp_path, number):
    """The command of the documents, on two processes; the signal goes to torchrun, which passes it on."""
    run = tiny_run(tmp_path, save_every=1, keep=100, **{"optim.steps": 10_000, "parallel.mode": "fsdp"})
    settings.save(run, tmp_path / "run.yaml")
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command += ["-m", "llavakit", "train", str(tmp_path / "run.yaml")]
    child = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    deadline = time.monotonic() + 120
    while not (run.out / "latest").exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(number)
    output, _ = child.communicate(timeout=60)
    done = losses(run)
    assert output.count("stopped at step") == 1, output
    assert output.count("on 2 ranks, each a share of the model") == 1
    assert f"stopped at step {len(done)} of 10000" in output
    assert resolve(run.out).name == f"step{len(done):06d}"
    assert not list(run.out.glob(".*"))


def test_the_first_rank_alone_tells_where_a_run_is(tmp_path, monkeypatch, capsys):
    settings.save(tiny_run(tmp_path), tmp_path / "run.yaml")
    monkeypatch.setattr("llavakit.train.loop.train", lambda *_, **__: None)
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        app(["train", str(tmp_path / "run.yaml")], standalone_mode=False)
        assert capsys.readouterr().out.count("saved in") == times


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_recomputing_blocks_gives_the_same_gradients(tmp_path):
    """Checkpointed or not, with the layout that travels through every block as a keyword, tower and decoder."""
    loader = Loader(DataConfig(files=(tiny.data_file(tmp_path),), tokens=200), tiny.encoder(), seed=0)
    batches = [batch for batch, _ in islice(loader.batches(Position()), 2)]
    found = []
    for recompute in (False, True):
        model = tiny.checkpoint().model.train()
        train_only(model, ("tower", "connector", "language"))
        if recompute:
            checkpoint_activations(model)
        inner = model.language.get_decoder().layers[0].mlp
        calls = count_calls(inner)
        train_step(model, SFT(), batches, precision="float32")
        assert len(calls) == (2 if recompute else 1) * len(batches)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = found
    assert any(name.startswith("tower") for name in plain)
    torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)


def count_calls(module):
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))  # recomputing stops before the last result
    return calls
