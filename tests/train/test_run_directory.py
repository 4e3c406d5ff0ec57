"""What a run may touch in its directory: its own checkpoints and drafts, and nothing else by whatever name."""

import json
import shutil
import signal

import pytest

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, DataError, Interrupted
from llavakit.model.directory import LATEST, resolve
from llavakit.train.loop import train
from llavakit.train.run_directory import list_checkpoints, newest_checkpoint
from llavakit.train.state import FACTS
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run, weights

THEIRS = (
    "step1-align/a",
    "step2_notes/a",
    "step7/x",
    "step1.sh",
    ".step-old.writing/x",
    "step000003-best/w",
)


def put_theirs(folder):
    for name in THEIRS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_the_runs_stays(tmp_path, overwrite):
    run = tiny_run(tmp_path, save_every=1, keep=2)
    if overwrite:
        train(run)
    put_theirs(run.out)
    draft = run.out / ".step000004.writing"  # of a run that was killed
    draft.mkdir()
    train(run, overwrite=overwrite)
    for name in THEIRS:
        assert (run.out / name).read_text() == name
    assert [path.name for path in list_checkpoints(run.out)] == ["step000005", "step000006"]
    assert not draft.exists() and not (run.out / ".llavakit.lock").exists()


def test_what_a_save_would_replace_is_refused_before_anything_is_done(tmp_path):
    run = tiny_run(tmp_path)
    mine = run.out / "step000006" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"step000006 is no checkpoint of a run .* move it"):
            train(run, overwrite=overwrite)
    assert sorted(path.name for path in run.out.rglob("*")) == ["step000006", "thesis.tex"]


def test_settings_that_somebody_wrote_by_hand_are_not_replaced(tmp_path):
    run = tiny_run(tmp_path, **{"optim.steps": 1})
    settings.save(run, run.out / "run.yaml")  # as a run that was killed before its first save leaves them
    by_hand = "# tuned on Friday\n" + (run.out / "run.yaml").read_text()
    (run.out / "run.yaml").write_text(by_hand)
    with pytest.raises(ConfigError, match=r"run\.yaml was not written by a run, .* move it"):
        train(run, overwrite=True)
    assert (run.out / "run.yaml").read_text() == by_hand
    settings.save(run, run.out / "run.yaml")
    train(run)
    (run.out / "run.yaml").write_text(by_hand)
    train(run, overwrite=True)  # of a directory that is a run's all is the run's


def test_a_pointer_that_is_not_ours_is_refused(tmp_path):
    run = tiny_run(tmp_path)
    run.out.mkdir()
    (run.out / LATEST).write_text("stage2\n")
    with pytest.raises(ConfigError, match="latest names no checkpoint of a run"):
        train(run)
    assert (run.out / LATEST).read_text() == "stage2\n"


@pytest.mark.parametrize("pointer", [None, "step000009\n"])
def test_checkpoints_that_latest_does_not_name_are_gone_on_from(tmp_path, pointer, capsys):
    """A lost or a stale pointer: refused without --resume, resumed from the newest complete one with it."""
    run, whole = tiny_run(tmp_path, save_every=2, keep=2), tiny_run(tmp_path, "whole")
    train(whole)
    interrupt_after(run, 4)
    assert (run.out / "step000002").is_dir()
    (run.out / LATEST).unlink()
    if pointer:
        (run.out / LATEST).write_text(pointer)
    (run.out / ".step000006.writing").mkdir()
    with pytest.raises(ConfigError, match=r"already holds a run \(step000004\)"):
        train(run)
    train(run, resume=True)
    assert losses(run) == losses(whole)
    assert ("names step000009, which is gone" in capsys.readouterr().out) == bool(pointer)


def test_checkpoints_without_their_settings_are_refused(tmp_path):
    run = tiny_run(tmp_path)
    interrupt_after(run, 2)
    (run.out / "run.yaml").unlink()
    with pytest.raises(ConfigError, match=r"has checkpoints but no run\.yaml"):
        train(run, resume=True)
    assert resolve(run.out).name == "step000002"


def test_half_removed_and_linked_directories_are_no_checkpoints(tmp_path):
    (tmp_path / "step000001").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / FACTS).write_text("{}")
    (tmp_path / "step000002").symlink_to(elsewhere)
    assert list_checkpoints(tmp_path) == [] and newest_checkpoint(tmp_path) is None
    shutil.copytree(elsewhere, tmp_path / "step1000000")
    shutil.copytree(elsewhere, tmp_path / "step999999")
    assert newest_checkpoint(tmp_path).name == "step1000000"  # by number, not by letters


def test_the_next_command_is_told_after_a_stop_and_a_refusal(tmp_path, run):
    stage = tiny_run(tmp_path, "with space")
    command = f"llavakit train '{stage.out}/run.yaml' --resume"
    with pytest.raises(Interrupted) as stopped:
        train_and_press(stage, 2)
    assert str(stopped.value).endswith(f"saved in {stage.out}; go on with: {command}")
    with pytest.raises(ConfigError) as refused:
        train(settings.override(stage, ["seed=3"]), resume=True)
    assert f"resume with the same ones: {command}, or start anew" in str(refused.value)
    code, _, _ = run("train", stage.out / "run.yaml", "--resume")  # it works
    assert code == 0 and len(losses(stage)) == 6


def train_and_press(run, steps):
    from llavakit.train.metrics import Metrics

    add = Metrics.add

    def press(self, row):
        add(self, row)
        if row["step"] == steps:
            signal.raise_signal(signal.SIGINT)

    Metrics.add = press
    try:
        train(run)
    finally:
        Metrics.add = add


def test_a_finished_run_is_trained_longer_by_the_command_it_names(tmp_path, run, capsys):
    stage = tiny_run(tmp_path)
    train(stage)
    train(stage, resume=True)
    command = f"llavakit train {stage.out}/run.yaml model.start={stage.out} out={stage.out}-longer"
    assert (
        f"already at its last step, 6; to train longer, start a second run from its weights: {command}"
        in (capsys.readouterr().out)
    )
    with pytest.raises(
        ConfigError, match=r"other settings: optim.steps; .*; to train longer, start a second run"
    ):
        train(settings.override(stage, ["optim.steps=12"]), resume=True)
    code, _, err = run(*command.split()[1:])
    assert code == 0, err
    first, longer = losses(stage), losses(settings.override(stage, [f"out={stage.out}-longer"]))
    assert sum(longer) < sum(first)


def test_bad_records_of_before_a_resume_stay_listed(tmp_path):
    run = tiny_run(tmp_path, **{"data.on_bad": "skip", "optim.rows": 1, "save_every": 1, "data.window": 2})
    rows = json.loads((tmp_path / "data.json").read_text())
    for row in rows[::2]:
        row["conversations"][0]["value"] = "no placeholder"
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    interrupt_after(run, 3)
    before = (run.out / "bad_records.txt").read_text().splitlines()
    train(run, resume=True)
    after = (run.out / "bad_records.txt").read_text().splitlines()
    assert before and after[: len(before)] == before and len(after) == len(set(after))


def test_another_run_does_not_inherit_the_list(tmp_path):
    run = tiny_run(tmp_path, **{"optim.steps": 1})
    run.out.mkdir()
    (run.out / "bad_records.txt").write_text("of a run before\n")
    (run.out / "bad_records_by_hand.txt").write_text("mine\n")
    train(run)
    assert not (run.out / "bad_records.txt").exists()
    assert (run.out / "bad_records_by_hand.txt").exists()


def drop(rows):
    return rows[1:]


def add(rows):
    return [*rows, tiny.record(99, None, [("What color is the shape?", "red")])]


def test_resuming_on_other_data_is_refused_by_name_with_both_counts(tmp_path):
    run = tiny_run(tmp_path)
    interrupt_after(run, 2)
    before = weights(run)
    file = tmp_path / "data.json"
    rows = json.loads(file.read_text())
    for change, now in ((drop, len(rows) - 1), (add, len(rows) + 1)):
        file.write_text(json.dumps(change(rows), indent=1))
        with pytest.raises(
            ConfigError, match=rf"{file} is not what this run began with: {len(rows)} records then, {now} now"
        ):
            train(settings.override(run, ["data.edited=accept"]), resume=True)
    file.write_text(json.dumps(add(drop(rows)), indent=1))
    with pytest.raises(ConfigError, match=rf"as many records, {len(rows)}, but other ones"):
        train(run, resume=True)
    assert weights(run).keys() == before.keys()
    train(settings.override(run, ["data.edited=accept"]), resume=True)
    assert len(losses(run)) == 6


@pytest.mark.parametrize("start", ["at the beginning", "after a step"])
def test_an_epoch_of_broken_pictures_ends_with_a_line(tmp_path, start):
    run = tiny_run(tmp_path, **{"data.on_bad": "skip", "optim.rows": 1, "optim.steps": 6, "save_every": 1})
    rows = [tiny.record(n, f"{n % 3}.png", [("What color is the shape?", "red")]) for n in range(6)]
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    if start == "after a step":
        interrupt_after(run, 1)
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(DataError, match=r"; the first: .*data\.json"):
        train(run, resume=start != "at the beginning")
