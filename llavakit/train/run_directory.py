"""The run directory: which checkpoint to go on from, and what in it may be removed.

Only that is the run's which it wrote: directories called `step` and six digits that hold training state, and their
drafts. Whatever else lies in `out`, and whatever it is called, is somebody's and stays.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say
from llavakit.model.directory import LATEST
from llavakit.train.ranks import ALONE, Ranks
from llavakit.train.run import Run
from llavakit.train.state import FACTS

SETTINGS = "run.yaml"
STEP = re.compile(r"step(\d{6,})")
DRAFT = re.compile(r"\.step\d{6,}\.(writing|old)")
BAD_RECORDS = re.compile(r"bad_records(\.rank\d{5})?\.txt")
SCHEDULE = {"optim.steps", "optim.epochs"}


def checkpoint_name(step: int) -> str:
    """Of the checkpoint after so many steps."""
    return f"step{step:06d}"


def list_checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. They are complete: a directory gets its name when it is."""
    return [path for _, path in sorted(_steps(out)) if _has_state(path)]


def newest_checkpoint(out: Path) -> Path | None:
    """The one that `latest` names; where it names none, the newest there is."""
    pointer = out / LATEST
    checkpoints = list_checkpoints(out)
    newest = checkpoints[-1] if checkpoints else None
    if not pointer.is_file():
        return newest
    name = pointer.read_text(errors="replace").strip()
    if not STEP.fullmatch(name):
        raise ConfigError(f"{pointer} names no checkpoint of a run; move it, or choose another out=")
    if (out / name).is_dir():
        return out / name
    if newest is not None:
        say(f"{pointer} names {name}, which is gone; the newest checkpoint is {newest.name}")
    return newest


def choose_start(out: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from; None where nothing has been saved yet, or shall be overwritten.

    A directory that holds a run is refused without either, and so is what a save would replace and is no run's.
    """
    newest = newest_checkpoint(out)
    start = None if overwrite else newest
    if start is not None and not resume:
        raise ConfigError(
            f"{out} already holds a run ({start.name}); go on with --resume, "
            "start anew with --overwrite, or choose another out="
        )
    if newest is None and (out / SETTINGS).exists() and not _is_a_runs(out / SETTINGS):
        raise ConfigError(
            f"{out / SETTINGS} was not written by a run, and this one would replace it; "
            "move it, or choose another out="
        )
    done = 0 if start is None else _number(start)
    for step, path in sorted(_steps(out)):
        if step > done and not _has_state(path):
            raise ConfigError(
                f"{path} is no checkpoint of a run (it has no {FACTS}), and a save might replace it; "
                "move it, or choose another out="
            )
    return start


def read_settings(out: Path) -> Run:
    """The settings a run was started with."""
    if not (out / SETTINGS).is_file():
        raise ConfigError(
            f"{out} has checkpoints but no {SETTINGS}, so nothing says how they were trained; "
            "put it back, or start anew in another out="
        )
    return settings.load(Run, out / SETTINGS)


def refuse_changes(run: Run, started: Run, ranks: Ranks = ALONE) -> None:
    """Settings that would make it another run are a ConfigError that names them."""
    changed = run.changed(started)
    if not changed:
        return
    longer = f"; {train_longer(run.out)}" if SCHEDULE.intersection(changed) else ""
    raise ConfigError(
        f"{run.out} was started with other settings: {', '.join(changed)}; resume with the same ones: "
        f"{resume_command(run.out, ranks)}, or start anew in another out={longer}"
    )


def resume_command(out: Path, ranks: Ranks = ALONE) -> str:
    """What to type to go on with a run."""
    command = f"train {shlex.quote(str(out / SETTINGS))} --resume"
    if ranks.size == 1:
        return f"llavakit {command}"
    if ranks.size == ranks.on_this_machine:
        return f"torchrun --nproc-per-node {ranks.size} -m llavakit {command}"
    return f"the same torchrun on every machine, with: -m llavakit {command}"


def train_longer(out: Path) -> str:
    """How a finished run is trained further: its learning rate has come down, so by a second run."""
    start, again = shlex.quote(str(out)), shlex.quote(f"{out}-longer")
    return (
        "to train longer, start a second run from its weights: "
        f"llavakit train {shlex.quote(str(out / SETTINGS))} model.start={start} out={again}"
    )


def begin(run: Run) -> None:
    """The run directory with its settings, and nothing of a run before it."""
    run.out.mkdir(parents=True, exist_ok=True)
    for old in list_checkpoints(run.out):  # the newest last: killed in between, it is the run before, still
        _remove(old)
    (run.out / LATEST).unlink(missing_ok=True)
    for file in run.out.iterdir():
        if BAD_RECORDS.fullmatch(file.name):
            file.unlink()
    settings.save(run, run.out / SETTINGS)


def remove_old(out: Path, newest: Path, *, keep: int) -> None:
    """Remove checkpoints beyond the `keep` newest, and the drafts of a run that was killed."""
    for old in list_checkpoints(out)[:-keep]:
        if old != newest:
            _remove(old)
    for draft in out.iterdir():
        if DRAFT.fullmatch(draft.name) and draft.is_dir():
            shutil.rmtree(draft)


def bad_records_file(out: Path, ranks: Ranks) -> Path:
    """Where a rank lists the records that it skipped."""
    return out / ("bad_records.txt" if ranks.is_first else f"bad_records.rank{ranks.rank:05d}.txt")


def read_bad_records(out: Path, ranks: Ranks) -> dict[str, None]:
    """What a rank has listed so far."""
    file = bad_records_file(out, ranks)
    return dict.fromkeys(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else {}


def _steps(out: Path) -> Iterator[tuple[int, Path]]:
    """Everything called like a checkpoint, with its number."""
    for path in out.iterdir() if out.is_dir() else ():
        if STEP.fullmatch(path.name):
            yield _number(path), path


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step"))


def _is_a_runs(file: Path) -> bool:
    """Whether these are settings as a run writes them: all of them, no comments. A killed run leaves some."""
    try:
        return settings.dump(settings.load(Run, file)) == file.read_text()
    except ConfigError:
        return False


def _has_state(path: Path) -> bool:
    return (path / FACTS).is_file() and not path.is_symlink()


def _remove(checkpoint: Path) -> None:
    """In one step for whoever looks: half a checkpoint never stands under its name."""
    aside = checkpoint.with_name(f".{checkpoint.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside)
