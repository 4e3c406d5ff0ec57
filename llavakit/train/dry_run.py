"""`llavakit train NAME --dry-run`: what a run would do, in seconds: no weight is read and no record."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from llavakit.core.errors import DataError, UserError
from llavakit.core.progress import console, say
from llavakit.data.mixture import list_sources
from llavakit.model.adapters import Adapter
from llavakit.model.llava import PARTS, Llava
from llavakit.model.outline import outline
from llavakit.train.estimate import estimate_memory
from llavakit.train.freezing import halve_frozen, train_only
from llavakit.train.ranks import tell_idle
from llavakit.train.run import Run

GIB = 2**30


def show_plan(run: Run, ranks: int | None = None) -> list[str]:
    """Print parts, data, tokens and memory of a run; returns a line for everything that would stop it.

    Of the memory of shares, it tells that of a rank of so many; default: of eight.
    """
    problems: list[str] = []
    say(f"{run.name}: {run.out}")
    model = _outline(run, problems)
    if model is not None:
        adapter = None if run.model.lora is None else Adapter(run.model.lora, run.model.start or Path())
        train_only(model, run.train, embeddings=run.embeddings, adapter=adapter)
        if adapter is not None and run.precision != "float32":
            halve_frozen(model)
        _show_parts(run, model)
    _show_files(run, problems)
    rows = f"{run.optim.rows} packed row(s) of up to {run.data.tokens:,}"
    idle = tell_idle(run.optim.rows, run.data.tokens, ranks or 1) if run.policy is None else ""
    say(f"tokens per step: up to {run.optim.rows * run.data.tokens:,} ({rows}{idle})")
    steps = run.optim.steps
    say(f"steps: {f'{steps:,}' if steps else f'{run.optim.epochs:g} epoch(s); counted when data is read'}")
    if model is not None:
        _show_memory(run, model, shards=ranks if ranks and ranks > 1 else 8)
    return problems


def _outline(run: Run, problems: list[str]) -> Llava | None:
    """The model without numbers. Where its start does not exist yet, that of the parts it will be made of."""
    starts = (
        [run.model] if run.model.start is None else [run.model, run.model.model_copy(update={"start": None})]
    )
    for config in starts:
        notes: list[str] = []
        try:
            model = outline(config, notes, run.grading)
        except UserError as error:
            problems.append(str(error))
            continue
        for note in notes:
            say(note)
        return model
    return None


def _data(run: Run) -> Iterator[tuple[str, Path, Path | None]]:
    """Every data file or mixture list, with the folder of its images."""
    yield from (("data.files", file, run.data.images) for file in run.data.files)
    yield from (("eval.files", file, run.eval.images) for file in run.eval.files)
    yield from (("retention.files", file, run.retention.images) for file in run.retention.files)
    if run.probes.file is not None:
        yield "probes.file", run.probes.file, run.probes.images


def _folders(run: Run) -> Iterator[tuple[str, Path]]:
    for setting, folder in (
        ("data.images", run.data.images),
        ("eval.images", run.eval.images),
        ("probes.images", run.probes.images),
        ("retention.images", run.retention.images),
    ):
        if folder is not None:
            yield setting, folder


def _show_files(run: Run, problems: list[str]) -> None:
    """A line for every source of data and folder of images; what is missing is a problem."""
    if not run.data.files:
        problems.append("data.files is empty")
    for setting, file, images in _data(run):
        try:
            paths = [path for source in list_sources([file], images) for path in source.paths]
        except DataError as error:
            problems.append(f"{setting}: {error}")
            continue
        size = sum(path.stat().st_size for path in paths if path.is_file())
        what = f"{size / 1e6:,.1f} MB" if all(path.is_file() for path in paths) else "data set"
        say(f"{setting}: {file} ({what})")
    for setting, folder in _folders(run):
        if folder.is_dir():
            say(f"{setting}: {folder}")
        else:
            problems.append(f"{setting}: no folder {folder}")


def _show_parts(run: Run, model: Llava) -> None:
    table = Table("part", "parameters", "trained", "learning rate", box=None)
    rates = run.optim.lr.model_dump()
    whole = learned = 0
    for name in PARTS:
        count = sum(p.numel() for p in model.part(name).parameters())
        trained = sum(p.numel() for p in model.part(name).parameters() if p.requires_grad)
        whole, learned = whole + count, learned + trained
        if count:
            state = f"{trained:,}" if trained else "frozen"
            table.add_row(name, f"{count:,}", state, f"{rates[name]:g}" if trained else "")
    table.add_row("all", f"{whole:,}", f"{learned:,}", "")
    console.print(table)


def _show_memory(run: Run, model: Llava, *, shards: int) -> None:
    one, share = (estimate_memory(run, model, shards=count) for count in (1, shards))
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in one._asdict().items() if size)
    say(f"memory per GPU, about: {one.total / GIB:,.2f} GiB ({parts})")
    if run.policy is not None:
        policy = one.weights + one.gradients + one.moments + one.average
        roles = {"policy": policy, "value": one.value, "reference": one.reference, "sampler": one.sampler}
        shares = ", ".join(f"{role} {size / GIB:,.2f}" for role, size in roles.items() if size)
        say(f"by role, between steps: {shares} GiB; the sampler's keys and values come on top")
    lora, valued = run.model.lora, run.policy is not None and run.policy.has_value
    if not valued and (lora is None or not lora.four_bit):  # four bits cannot be cut, nor a base of two roles
        say(f"sharded over {shards} GPUs, about: {share.total / GIB:,.2f} GiB on each")
