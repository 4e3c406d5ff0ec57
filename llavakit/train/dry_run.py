"""`llavakit train NAME --dry-run`: what a run would do, in seconds: no weight is read and no record."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from llavakit.core.errors import UserError
from llavakit.core.progress import console, say
from llavakit.model.adapters import Adapter
from llavakit.model.llava import PARTS, Llava
from llavakit.model.outline import outline
from llavakit.train.estimate import estimate_memory
from llavakit.train.optim import train_only
from llavakit.train.run import Run

GIB = 2**30


def show_plan(run: Run) -> list[str]:
    """Print parts, data, tokens and memory of a run; returns a line for everything that would stop it."""
    problems = list(_missing_files(run))
    say(f"{run.name}: {run.out}")
    model = _outline(run, problems)
    if model is not None:
        adapter = None if run.model.lora is None else Adapter(run.model.lora, run.model.start or Path())
        train_only(model, run.train, embeddings=run.embeddings, adapter=adapter)
        _show_parts(run, model)
    for setting, path in _files(run):
        say(f"{setting}: {path} ({_size(path)})")
    rows = f"{run.optim.rows} packed row(s) of up to {run.data.tokens:,}"
    say(f"tokens per step: up to {run.optim.rows * run.data.tokens:,} ({rows})")
    steps = run.optim.steps
    say(f"steps: {f'{steps:,}' if steps else f'{run.optim.epochs:g} epoch(s); counted when data is read'}")
    if model is not None:
        _show_memory(run, model)
    return problems


def _outline(run: Run, problems: list[str]) -> Llava | None:
    """The model without numbers. Where its start does not exist yet, that of the parts it will be made of."""
    try:
        return outline(run.model)
    except UserError as error:
        problems.append(str(error))
        if run.model.start is None:
            return None
    try:
        return outline(run.model.model_copy(update={"start": None}))
    except UserError as error:
        problems.append(str(error))
        return None


def _files(run: Run) -> Iterator[tuple[str, Path]]:
    """Every setting that names a file or folder which must exist (the model's are checked where it is outlined)."""
    for setting, paths in (
        ("data.files", run.data.files),
        ("data.images", (run.data.images,)),
        ("eval.files", run.eval.files),
        ("eval.images", (run.eval.images,)),
        ("probes.file", (run.probes.file,)),
        ("probes.images", (run.probes.images,)),
    ):
        yield from ((setting, path) for path in paths if path is not None)


def _size(path: Path) -> str:
    if path.is_file():
        return f"{path.stat().st_size / 1e6:,.1f} MB"
    return "folder" if path.is_dir() else "MISSING"


def _missing_files(run: Run) -> Iterator[str]:
    if not run.data.files:
        yield "data.files is empty"
    for setting, path in _files(run):
        if not path.exists():
            yield f"{setting}: {path} does not exist"


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


def _show_memory(run: Run, model: Llava) -> None:
    memory = estimate_memory(run, model)
    parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in memory._asdict().items() if size)
    say(f"memory per GPU, about: {memory.per_gpu(1) / GIB:,.2f} GiB ({parts})")
    say(f"spread over 8 GPUs, about: {memory.per_gpu(8) / GIB:,.2f} GiB on each")
