"""The loop: splits, freezing, exact resume, and what is left behind when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llavakit.core import config as settings
from llavakit.core.errors import CheckpointError, ConfigError, DataError
from llavakit.data.encode import Encoder
from llavakit.data.loader import Loader, Position
from llavakit.data.settings import DataConfig
from llavakit.model import checkpoint as checkpoints
from llavakit.model.directory import load_card, resolve
from llavakit.model.settings import ModelConfig
from llavakit.text.templates import template
from llavakit.train.freezing import train_only
from llavakit.train.loop import train, train_step
from llavakit.train.metrics import read_metrics
from llavakit.train.objectives import SFT
from llavakit.train.optim import build_optimizer, schedule
from llavakit.train.run import Run
from llavakit.train.settings import LearningRates, OptimConfig
from tests import tiny


def tiny_run(tmp_path, name="run", **changes) -> Run:
    """Six steps of a tiny model on the tiny data, starting from one checkpoint."""
    start = tmp_path / "start"
    if not start.exists():
        checkpoints.save(tiny.checkpoint(), start)
        tiny.data_file(tmp_path)
    card = load_card(start)
    run = Run(
        name=name,
        out=tmp_path / name,
        precision="float32",
        model=ModelConfig(start=start, **card.choices()),
        data=DataConfig(files=(tmp_path / "data.json",), tokens=96),
        optim=OptimConfig(lr=LearningRates(connector=1e-2, language=1e-2, tower=1e-3), steps=6, rows=2),
    )
    return settings.override(run, [f"{key}={value}" for key, value in changes.items()])


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(resolve(run.out) / "model.safetensors")


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in read_metrics(run.out / "metrics.jsonl")]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_loss_falls(tmp_path, precision):
    run = tiny_run(tmp_path, precision=precision, **{"optim.steps": 30})
    train(run)
    curve = losses(run)
    assert sum(curve[-5:]) < 0.7 * sum(curve[:5])
    assert (run.out / "curves.png").stat().st_size > 1000
    assert settings.load(Run, run.out / "run.yaml") == run


@pytest.mark.parametrize("cuts", [[0, 12], [0, 1, 5, 12], list(range(13))])
def test_any_split_of_a_step_gives_the_same_gradient(tmp_path, cuts):
    """Twelve samples as one packed row, as uneven micro-batches, one by one."""
    from llavakit.data.pack import collate

    ck = tiny.checkpoint()
    loader = Loader(DataConfig(files=(tiny.data_file(tmp_path, 12),), tokens=4096), tiny.encoder(), seed=0)
    samples = [loader.samples(record) for record in loader.records]

    def gradient(edges):
        batches = []
        for a, b in pairwise(edges):
            cut = [loader.tiles(media) for sample in samples[a:b] for media in sample.media]
            batches.append(collate(samples[a:b], cut))
        ck.model.zero_grad(set_to_none=True)
        loss, report = train_step(ck.model, SFT(), batches, precision="float32")
        return (
            loss,
            report,
            {name: p.grad.clone() for name, p in ck.model.named_parameters() if p.grad is not None},
        )

    loss, report, mine = gradient(cuts)
    whole_loss, whole_report, whole = gradient([0, 12])
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert report == pytest.approx(whole_report)
    for name in whole:
        torch.testing.assert_close(mine[name], whole[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    whole, cut = tiny_run(tmp_path, "whole"), tiny_run(tmp_path, "cut", save_every=1)
    train(whole)
    interrupt_after(cut, stop)
    assert len(losses(cut)) == stop
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def interrupt_after(run: Run, steps: int, **how) -> None:
    """Press Ctrl-C as soon as the metrics show `steps` steps."""
    from llavakit.core.errors import Interrupted
    from llavakit.train.metrics import Metrics

    add = Metrics.add

    def press(self, row):
        add(self, row)
        if row["step"] == steps:
            signal.raise_signal(signal.SIGINT)

    Metrics.add = press
    try:
        with pytest.raises(Interrupted, match=f"stopped at step {steps} of 6"):
            train(run, **how)
    finally:
        Metrics.add = add


def test_an_interrupted_run_leaves_a_loadable_model(tmp_path):
    run = tiny_run(tmp_path)
    interrupt_after(run, 2)
    assert resolve(run.out).name == "step000002"
    checkpoints.load(run.out)


LIVES = """
import os, signal, sys, time
from pathlib import Path
from llavakit import cli
from llavakit.train import loop, run_directory, saving
from llavakit.train.metrics import read_metrics

def die_after(owner, name, calls):
    work = vars(owner)[name]
    left = [calls]
    def last(*args, **kwargs):
        result = work(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, last)

def live(settings, *death):
    child = os.fork()  # from a process that has imported everything and computed nothing
    if not child:
        if death:
            die_after(*death)
        sys.argv = ["llavakit", "train", settings, "--resume"]
        cli.main()
        os._exit(0)
    return child

settings, log = sys.argv[1], Path(sys.argv[2])
deaths = [
    (saving, "write", 2),  # the weights are there, the training state is not
    (saving, "save_state", 2),  # all files are there, the directory has no name yet
    (saving, "write_text", 2),  # `latest` points to it, nothing old is removed
    (run_directory.shutil, "rmtree", 5),  # somewhere in the clearing
    (loop.Metrics, "add", 3),  # between two checkpoints
    (),
]
for death in deaths:
    child = live(settings, *death)
    if not death:  # from outside, at no particular place
        done = len(read_metrics(log))
        while len(read_metrics(log)) < done + 3:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, (death, status)
    print(len(read_metrics(log)), flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path):
    """kill -9 and always the same command, six times over: in every part of a save, and between saves."""
    whole, cut = (tiny_run(tmp_path, name, **{"optim.steps": 40}) for name in ("whole", "cut"))
    cut = settings.override(cut, ["save_every=2", "keep=2"])
    settings.save(cut, tmp_path / "cut.yaml")
    train(whole)
    done = subprocess.run(
        [sys.executable, "-c", LIVES, str(tmp_path / "cut.yaml"), str(cut.out / "metrics.jsonl")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        timeout=500,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < len(losses(cut)) < 40
    checkpoints.load(cut.out)
    train(cut, resume=True)
    assert losses(cut) == losses(whole)
    mine, theirs = weights(cut), weights(whole)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert sorted(path.name for path in cut.out.glob("*step*")) == ["step000038", "step000040"]
    assert not list(cut.out.glob(".*"))


def test_a_directory_that_holds_a_run_is_not_overwritten_by_accident(tmp_path):
    run = tiny_run(tmp_path, save_every=2, keep=9)
    train(run)
    with pytest.raises(
        ConfigError, match=r"already holds a run \(step000006\); go on with --resume, start anew"
    ):
        train(run)
    again = settings.override(run, ["seed=3", "optim.steps=2"])
    train(again, overwrite=True)
    assert [path.name for path in run.out.glob("step*")] == ["step000002"]
    assert settings.load(Run, run.out / "run.yaml") == again
    assert len(losses(run)) == 2


def test_how_a_run_is_computed_may_change_when_it_goes_on(tmp_path):
    run = tiny_run(tmp_path)
    whole = tiny_run(tmp_path, "whole")
    train(whole)
    interrupt_after(run, 3)
    train(settings.override(run, ["checkpointing=true", "parallel.mode=fsdp", "save_every=2"]), resume=True)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)


def test_a_step_of_bad_records_only_is_passed_over(tmp_path):
    """One broken picture, a record a row: the run goes on to its last step, with one row fewer an epoch."""
    run = tiny_run(tmp_path, **{"data.on_bad": "skip", "data.window": 1, "optim.rows": 1, "optim.steps": 9})
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    train(run)
    assert [row["step"] for row in read_metrics(run.out / "metrics.jsonl")] == list(range(1, 10))
    assert "2.png" in (run.out / "bad_records.txt").read_text()


def test_a_record_beyond_the_models_context_stops_the_run_before_its_first_step(tmp_path):
    run = tiny_run(tmp_path)
    rows = [tiny.record(0, None, [("Say it.", "one two three " * 200)])]
    (tmp_path / "long.json").write_text(json.dumps(rows))
    run = settings.override(run, [f"data.files={tmp_path / 'long.json'}", "data.tokens=4096"])
    with pytest.raises(
        DataError, match=r"long.json:1: \d+ tokens .* do not fit the model's context of 512; "
    ):
        train(run)
    assert losses(run) == []


def test_compat_weights_learn_what_the_release_learned(tmp_path):
    """`qwen_1_5` as released learns role headers too, so a step of it counts more tokens."""
    learned = {}
    for rule in ("ours", "compat"):
        folder = tmp_path / rule
        folder.mkdir()
        changes = ["model.template=qwen_1_5", f"data.weights={rule}", "optim.steps=1"]
        run = settings.override(tiny_run(folder), changes)
        train(run)
        learned[rule] = read_metrics(run.out / "metrics.jsonl")[0]["learned"]
    assert learned["compat"] > learned["ours"] > 0


def test_a_start_of_half_precision_is_trained_in_full(tmp_path):
    """A step of 2e-5 is smaller than bf16's distance between neighbours: weights kept in it would not move."""
    half = tiny.checkpoint()
    half.model.to(torch.bfloat16)
    checkpoints.save(half, tmp_path / "half")
    run = settings.override(tiny_run(tmp_path), [f"model.start={tmp_path / 'half'}", "optim.steps=1"])
    train(run)
    trained = checkpoints.load(run.out).model
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    before = half.model.connector[0].weight.float()
    assert not torch.equal(trained.connector[0].weight, before)


def test_what_was_left_open_is_no_change(tmp_path):
    """`auto` and a card not written out are settled when a run begins; resuming with them is the same run."""
    open_settings = ["precision=auto", "model.im_start_end=null", "model.template=null"]
    run = settings.override(tiny_run(tmp_path), open_settings)
    interrupt_after(run, 1)
    assert train(run, resume=True) == run.out


def test_changed_settings_are_refused_by_name(tmp_path):
    run = tiny_run(tmp_path)
    interrupt_after(run, 1)
    with pytest.raises(ConfigError, match=r"other settings: optim.lr.language, seed;"):
        train(settings.override(run, ["optim.lr.language=0.5", "seed=3"]), resume=True)


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    run = tiny_run(tmp_path)
    train(run, resume=True)
    assert len(losses(run)) == 6


def test_only_the_named_parts_change(tmp_path):
    run = tiny_run(tmp_path, train="[connector]")
    train(run)
    before, after = load_file(tmp_path / "start" / "model.safetensors"), weights(run)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"multi_modal_projector"}
    with pytest.raises(ConfigError, match="name at least one of tower, connector, language"):
        train_only(tiny.checkpoint().model, ("conector",))


def test_learning_rates_by_part_and_no_decay_on_vectors():
    model = tiny.checkpoint().model
    train_only(model, ("connector", "language"))
    optimizer = build_optimizer(
        model, OptimConfig(weight_decay=0.1, lr=LearningRates(connector=1.0, language=0.5))
    )
    by_param = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        if name.startswith("tower."):
            assert id(p) not in by_param
            continue
        group = by_param[id(p)]
        assert group["lr"] == {"connector": 1.0, "language": 0.5}[name.split(".")[0]]
        assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)


def test_the_schedule_warms_up_and_ends_at_its_floor():
    config = OptimConfig(warmup=0.1, final=0.2)
    rates = [schedule(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.2, abs=0.001)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert schedule(0, 1, config) == 1.0
    line = OptimConfig(warmup=0.0, final=0.2, decay="linear")
    assert [schedule(step, 4, line) for step in range(4)] == pytest.approx([1.0, 0.8, 0.6, 0.4])
    twice = line.model_copy(update={"cycles": 2})
    assert [schedule(step, 7, twice) for step in range(7)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, *(1 - 0.8 * step / 3 for step in range(3))]
    )


def test_a_bad_record_stops_with_its_place_or_is_listed(tmp_path):
    run = tiny_run(tmp_path, **{"optim.steps": 3})
    rows = json.loads((tmp_path / "data.json").read_text())
    rows[2]["conversations"][0]["value"] = "no placeholder"
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(DataError, match=r"data.json:\d+: 0 <image> placeholder.* 1 image"):
        train(run)
    train(settings.override(run, ["data.on_bad=skip"]))
    assert "placeholder" in (run.out / "bad_records.txt").read_text()


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path):
    """A file size limit stands for the disk: the second save fails half way, the first stays loadable."""
    code = """
import resource, signal, sys
from pathlib import Path
from llavakit.core import config
from llavakit.core.errors import UserError
from llavakit.train import loop, saving
from llavakit.train.run import Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write = saving.write
def second(checkpoint, folder, **how):
    if folder.name.endswith("000004.writing"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    write(checkpoint, folder, **how)
saving.write = second
try:
    loop.train(config.load(Run, Path(sys.argv[1])))
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    run = tiny_run(tmp_path, save_every=2)
    settings.save(run, tmp_path / "run.yaml")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "step000004: could not be written: File too large" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
    assert resolve(run.out).name == "step000002"
    checkpoints.load(run.out)
    assert not list(run.out.glob(".*writing"))
    train(run, resume=True)
    assert len(losses(run)) == 6


def test_a_step_without_anything_to_learn_says_so(tmp_path):
    ck = tiny.checkpoint()
    loader = Loader(DataConfig(files=(tiny.data_file(tmp_path),)), tiny.encoder(), seed=0)
    batch, _ = next(iter(islice(loader.batches(Position()), 1)))
    with pytest.raises(ConfigError, match="nothing to learn"):
        train_step(
            ck.model,
            SFT(),
            [type(batch)(**{**vars(batch), "weights_L": batch.weights_L * 0})],
            precision="float32",
        )


def test_a_start_with_other_parts_is_refused(tmp_path):
    run = tiny_run(tmp_path, **{"model.connector.kind": "linear"})
    with pytest.raises(ConfigError, match=r"model.connector is .*linear.* but .* has .*mlp"):
        train(run)


def test_stage_two_goes_on_from_stage_one(tmp_path):
    """Stage 1 under `plain` with square crops, stage 2 under the chat template with padding."""
    first = tiny_run(
        tmp_path,
        "one",
        train="[connector]",
        **{"model.template": "plain_no_bos", "model.image.kind": "square"},
    )
    train(first)
    second = tiny_run(tmp_path, "two", **{"model.start": first.out})
    train(second)
    card = checkpoints.load(second.out).card
    assert (card.template, card.image.kind) == ("chatml", "pad")
    assert checkpoints.load(first.out).card.template == "plain_no_bos"


def test_reading_runs_ahead_but_errors_come_out(tmp_path):
    config = DataConfig(files=(tiny.data_file(tmp_path),), tokens=96)
    loader = Loader(config, Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE), seed=0)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"data.json:\d+: image not found"):
        list(islice(loader.batches(Position()), 50))
    assert all(not thread.name.startswith("loader") for thread in threading.enumerate())


def test_a_checkpoint_without_training_state_cannot_be_resumed(tmp_path):
    run = tiny_run(tmp_path)
    train(run)
    (resolve(run.out) / "train_state.json").unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        train(run, resume=True)
