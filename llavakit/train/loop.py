"""The loop: load, freeze, step, save. One for every objective and every stage."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType

import torch
from torch.optim import AdamW

from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, UserError
from llavakit.core.files import atomic_directory, write_text
from llavakit.core.progress import bar, say
from llavakit.core.types import Batch
from llavakit.data.cache import FeatureCache
from llavakit.data.encode import Encoder
from llavakit.data.loader import DataConfig, Loader, Position
from llavakit.model.build import build
from llavakit.model.card import LATEST, resolve
from llavakit.model.checkpoint import Checkpoint, write
from llavakit.model.connector import Standardize
from llavakit.model.llava import PARTS, Llava
from llavakit.train.ema import update_average, write_average
from llavakit.train.metrics import Metrics, draw_curves
from llavakit.train.objectives import SFT, Objective
from llavakit.train.optim import build_optimizer, clip_gradients, schedule, set_rates, train_only
from llavakit.train.precision import fastest_precision
from llavakit.train.probes import Answer
from llavakit.train.run import Run
from llavakit.train.state import State, load_state, read_state, save_state
from llavakit.train.watch import Watch

STANDARDIZE_IMAGES = 512  # enough for a mean and a deviation per channel


class Interrupted(UserError):
    """Ctrl-C: everything is saved, and the message says how to go on."""

    exit_code = 130


def train(
    run: Run, *, resume: bool = False, objective: Objective | None = None, answer: Answer | None = None
) -> Path:
    """Train one stage; returns the run directory, whose newest checkpoint loads by that path.

    With `resume`, goes on from the newest checkpoint exactly as if nothing had happened; settings that would
    make it another run are refused by name. Probes are answered by `answer`. Raises Interrupted on Ctrl-C, after
    saving.
    """
    objective = SFT() if objective is None else objective
    run = _settle(run, resume)
    newest = _newest(run) if resume else None
    if newest is not None and (stands := read_state(newest)).step >= stands.steps:
        say(f"{run.name}: already at its last step, {stands.step}")
        return run.out
    torch.manual_seed(run.seed)
    start = run.model if newest is None else run.model.model_copy(update={"start": newest})
    checkpoint = build(start)
    model = checkpoint.model
    train_only(model, run.train, embeddings=run.embeddings, adapter=checkpoint.adapter)
    optimizer = build_optimizer(model, run.optim)
    loader = _loader(run, checkpoint, run.data)
    if run.model.start is None and newest is None:
        _standardize(model, loader)
    state = State() if newest is None else load_state(optimizer, model, newest)
    if newest is None:
        state.steps = run.optim.steps or max(1, int(run.optim.epochs * loader.num_rows() / run.optim.rows))
        run.out.mkdir(parents=True, exist_ok=True)
        settings.save(run, run.out / "run.yaml")
    say(_headline(run, model, state, len(loader.records)))
    metrics = Metrics(run.out, done=state.step, tensorboard=run.watch.tensorboard)
    watch = Watch(
        run,
        checkpoint,
        objective,
        answer=answer,
        load=lambda data: _loader(run, checkpoint, data),
        done=state.step,
    )
    try:
        with closing(loader.batches(state.position)) as source:
            _steps(run, checkpoint, source, optimizer, objective, state, metrics, watch)
    finally:
        if loader.bad:
            write_text(run.out / "bad_records.txt", "\n".join(loader.bad) + "\n")
            say(f"skipped {len(loader.bad)} bad record(s): {run.out / 'bad_records.txt'}")
    return run.out


def train_step(
    model: Llava, objective: Objective, batches: list[Batch], *, precision: str
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of one step; returns loss and reports per unit of weight.

    Every batch is divided by the weight of all of them, so any split of a step gives the same gradient.
    """
    total = sum(objective.weight(batch) for batch in batches)
    if total == 0:
        raise ConfigError("a step has nothing to learn: no token carries weight; look at `llavakit inspect`")
    loss = 0.0
    report: dict[str, float] = {}
    for batch in batches:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
            sums = objective.loss(model, batch.to(model.device))
        (sums.loss / total).backward()
        loss += float(sums.loss.detach()) / total
        for name, value in sums.report.items():
            report[name] = report.get(name, 0.0) + float(value) / total
    return loss, report


def _steps(
    run: Run,
    checkpoint: Checkpoint,
    source: Iterator[tuple[Batch, Position]],
    optimizer: AdamW,
    objective: Objective,
    state: State,
    metrics: Metrics,
    watch: Watch,
) -> None:
    model = checkpoint.model.train()
    with bar(run.name, state.steps, done=state.step) as progress, _ctrl_c() as asked_to_stop:
        while state.step < state.steps:
            began = time.perf_counter()
            rows = list(islice(source, run.optim.rows))
            batches = [batch for batch, _ in rows]
            rates = set_rates(optimizer, schedule(state.step, state.steps, run.optim))
            loss, report = train_step(model, objective, batches, precision=run.precision)
            norm = clip_gradients(model, run.optim.clip)
            verdict = state.guard.judge(state.step + 1, loss, norm, run.optim.on_spike)
            if not verdict.skip:
                optimizer.step()
                if run.optim.ema is not None:
                    update_average(optimizer, run.optim.ema)
            optimizer.zero_grad(set_to_none=True)

            seconds = time.perf_counter() - began
            tokens = sum(batch.num_tokens for batch in batches)
            state.step, state.position = state.step + 1, rows[-1][1]
            state.seconds, state.tokens = state.seconds + seconds, state.tokens + tokens
            metrics.add(
                {
                    "step": state.step,
                    "loss": loss,
                    **report,
                    "norm": norm,
                    "tokens": tokens,
                    "seconds": seconds,
                }
                | {f"lr_{part}": rate for part, rate in rates.items()}
                | verdict.row
                | watch.figures(batches, seconds)
                | watch.look(state)
            )
            progress.advance(note=f"loss {loss:.3f}  {tokens / seconds:,.0f} tokens/s")
            last = state.step == state.steps
            if last or asked_to_stop() or (run.save_every and state.step % run.save_every == 0):
                _save(run, checkpoint, optimizer, state)
                draw_curves({run.name: metrics.rows}, run.out / "curves.png")
            if asked_to_stop() and not last:
                raise Interrupted(f"stopped at step {state.step} of {state.steps}; saved in {run.out}")


def _save(run: Run, checkpoint: Checkpoint, optimizer: AdamW, state: State) -> None:
    name = f"step{state.step:06d}"
    with atomic_directory(run.out / name) as draft:
        write(checkpoint, draft)
        if run.optim.ema is not None:
            write_average(checkpoint, optimizer, draft)
        save_state(state, optimizer, checkpoint.model, draft)
    write_text(run.out / LATEST, name + "\n")
    for old in sorted(run.out.glob("step[0-9]*"))[: -run.keep]:
        if old.name != name:
            shutil.rmtree(old)


def _settle(run: Run, resume: bool) -> Run:
    """The run with nothing left to choose, so that its run.yaml repeats it."""
    changes: dict[str, object] = {"model": run.model.model_copy(update=dict(run.model.card()))}
    if run.precision == "auto":
        if resume and (run.out / LATEST).exists():  # as it began, whatever machine it wakes up on
            changes["precision"] = settings.load(Run, run.out / "run.yaml").precision
        else:
            changes["precision"] = fastest_precision(
                torch.device("cuda" if torch.cuda.is_available() else "cpu")
            )
    return run.model_copy(update=changes)


def _standardize(model: Llava, loader: Loader) -> None:
    """Fit a fresh connector's standardization, where it has one, to the first images of the data."""
    layer = model.connector[0]
    if isinstance(layer, Standardize):
        with torch.no_grad():
            media = list(islice(loader.media(), STANDARDIZE_IMAGES))
            tables = [loader.tiles(item) for item in media]
            rows = [
                table if loader.cache is not None else model.tower(table.to(model.device)) for table in tables
            ]
        layer.fit(torch.cat(rows))


def _newest(run: Run) -> Path | None:
    """The checkpoint to resume from; none where nothing has been saved yet."""
    if not (run.out / LATEST).exists():
        return None
    before = settings.load(Run, run.out / "run.yaml")
    changed = run.changed(before)
    if changed:
        raise ConfigError(
            f"{run.out} was started with other settings: {', '.join(changed)}; "
            "resume with the same ones, or start anew in another out="
        )
    return resolve(run.out)


def _loader(run: Run, checkpoint: Checkpoint, data: DataConfig) -> Loader:
    card = checkpoint.card
    encoder = Encoder(checkpoint.tokenizer, card.prompt(), card.image, card.video, weights=data.weights)
    cache = None
    if data.features is not None:
        if "tower" in run.train:
            raise ConfigError(
                "data.features caches the tower's output, but train includes the tower; drop one"
            )
        cache = FeatureCache(data.features, f"{card.tower} {card.image}")
    loader = Loader(data, encoder, seed=run.seed, cache=cache)
    if cache is not None:
        cache.fill(loader.media(), checkpoint.model.tower)
    return loader


def _headline(run: Run, model: Llava, state: State, num_records: int) -> str:
    counts = {name: sum(p.numel() for p in model.part(name).parameters()) for name in PARTS}
    parts = ", ".join(
        f"{name} {count / 1e6:.1f}M {'trained' if name in run.train else 'frozen'}"
        for name, count in counts.items()
        if count
    )
    begin = f"from step {state.step} " if state.step else ""
    return f"{run.name}: {num_records} records, {begin}to step {state.steps}; {parts}"


@contextmanager
def _ctrl_c() -> Iterator["_Flag"]:
    """The first Ctrl-C asks for a stop at the end of the step; the second stops at once, unsaved."""
    flag = _Flag()
    try:
        before = signal.signal(signal.SIGINT, flag.set)
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


class _Flag:
    def __init__(self) -> None:
        self._set = False

    def __call__(self) -> bool:
        return self._set

    def set(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        say("stopping after this step and saving; Ctrl-C again stops at once")
