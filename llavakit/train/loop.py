"""The loop: load, freeze, shard, step, save. One for every objective, every stage and any number of ranks."""

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from llavakit.core.errors import ConfigError, DataError, Interrupted
from llavakit.core.files import write_text
from llavakit.core.progress import bar, say
from llavakit.core.types import Batch
from llavakit.data.cache import FeatureCache
from llavakit.data.encode import Encoder
from llavakit.data.loader import Loader, Position
from llavakit.data.settings import DataConfig
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.directory import complete_card
from llavakit.model.llava import PARTS, Llava
from llavakit.model.tower import Tower
from llavakit.train import run_directory, saving
from llavakit.train.balance import balance_batches
from llavakit.train.compiling import Compiler
from llavakit.train.ema import update_average
from llavakit.train.gradients import clip_gradients, sum_gradients
from llavakit.train.kto import Kto
from llavakit.train.lock import hold_directory
from llavakit.train.metrics import Metrics, Row, draw_curves
from llavakit.train.monitor import Monitor
from llavakit.train.objectives import SFT, Objective, Tally, add_totals
from llavakit.train.optim import build_optimizer, schedule, set_rates
from llavakit.train.precision import autocast, fastest_precision
from llavakit.train.preference import Preference
from llavakit.train.probes import Answer
from llavakit.train.ranks import ALONE, Ranks, join_ranks, tell_idle
from llavakit.train.reference import switch_off_dropout
from llavakit.train.reward import RewardPairs, open_grader
from llavakit.train.run import Run
from llavakit.train.run_page import write_run_page
from llavakit.train.sharding import is_sharded, reduce_copies
from llavakit.train.source import Files, OpenPolicy, Source, Step
from llavakit.train.starting import build_model, copy_reference, standardize
from llavakit.train.state import State, load_state, read_state, refuse_other_data
from llavakit.train.stopping import StopRequest, exit_code, listen
from llavakit.train.stored_reference import StoredReference

LENGTHS = "lengths"  # in a run's folder, where ranks share it


def train(
    run: Run,
    *,
    resume: bool = False,
    overwrite: bool = False,
    objective: Objective | None = None,
    answer: Answer | None = None,
    policy: OpenPolicy | None = None,
) -> Path:
    """Train one stage; returns the run directory, whose newest checkpoint loads by that path.

    With `resume`, goes on from the newest checkpoint exactly as if nothing had happened (from the start, if there
    is none); settings and data that would make it another run are refused by name. With `overwrite`, the run that
    is in the directory is thrown away; with neither, a directory that holds a run is refused. `answer` answers the
    probes, `policy` samples what a run with `policy` learns from.
    Raises Interrupted on Ctrl-C and SIGTERM, after saving. Under `torchrun` every rank calls it.
    """
    if run.model.start is None and run.lesson is not None:
        raise ConfigError(f"{run.lesson} needs model.start: it teaches a model that answers already")
    with join_ranks(run.parallel) as ranks, hold_directory(run.out, ranks):
        newest = run_directory.choose_start(run.out, resume=resume, overwrite=overwrite)
        started = None if newest is None else run_directory.read_settings(run.out)
        run = _settle(run, ranks, started)
        if started is not None:
            run_directory.refuse_changes(run, started, ranks)
        if newest is not None and (stands := read_state(newest)).step >= stands.steps:
            longer = run_directory.train_longer(run.out)
            say(f"{run.name}: already at its last step, {stands.step}; {longer}")
            return run.out
        torch.manual_seed(run.seed)
        loop = _prepare(run, newest, objective, ranks, answer, policy)
        say(_headline(loop))
        try:
            loop.run_steps()
        finally:
            loop.tell_bad()
    return run.out


@dataclass
class Loop:
    """Everything a run's steps need, on one rank."""

    run: Run
    checkpoint: Checkpoint
    loader: Loader
    source: Source
    optimizer: AdamW
    objective: Objective
    ranks: Ranks
    state: State
    metrics: Metrics
    monitor: Monitor
    compiler: Compiler | None
    unreadable_since: Position | None = None  # no rank could read anything of any step from there on

    def run_steps(self) -> None:
        """From where `state` stands to the last step, or to the end of the one in which a stop is asked for."""
        run, state = self.run, self.state
        self.checkpoint.model.train()
        self.monitor.begin(state)
        with (
            closing(self.source.steps(state)) as steps,
            bar(run.name, state.steps, done=state.step) as progress,
            listen(run, state) as request,
        ):
            while state.step < state.steps:
                began = time.perf_counter()
                step = next(steps)
                state.position, state.round = step.position, step.round
                is_step = self._is_readable(step.batches)
                last = False
                if is_step:
                    row = self._timed_step(step, began)
                    last = state.step == state.steps
                    # Looking may take minutes, which somebody who wants to stop does not have.
                    if self.monitor.is_due(state) and (last or not self._wants_stop(request)):
                        row |= self.monitor.look(state)
                    self.metrics.add(row)
                    self.source.hear(row)
                    progress.advance(
                        note=f"loss {row['loss']:.3f}  {row['tokens'] / row['seconds']:,.0f} tokens/s"
                    )
                stop = self._wants_stop(request)
                if last or stop or (is_step and run.save_every and state.step % run.save_every == 0):
                    with request.saving():
                        self.save()
                    stop = self._wants_stop(request)  # who asks during a save need not wait for another step
                if stop and not last:
                    raise Interrupted(
                        f"stopped at step {state.step} of {state.steps}; saved in {run.out}",
                        run_directory.resume_command(run.out, self.ranks),
                        exit_code(stop),
                    )

    def save(self) -> None:
        """A checkpoint of this step, the curves up to it, and the records that were skipped."""
        saving.save_checkpoint(
            self.run, self.checkpoint, self.optimizer, self.state, self.ranks, self.source.keep
        )
        if self.ranks.is_first:
            draw_curves({self.run.name: self.metrics.rows}, self.run.out / "curves.png")
            self.source.draw(self.metrics.rows, self.run.out)
            write_run_page(self.run, self.state, self.metrics.rows, self.ranks)
        self._list_bad()

    def tell_bad(self) -> None:
        """A line about the records that were skipped, which are listed in a file."""
        if self.loader.bad:
            say(f"skipped {len(self.loader.bad)} bad record(s): {self._list_bad()}")

    def _list_bad(self) -> Path:
        """Skipped records as a file; every rank lists those it met itself, before a resume too."""
        file = run_directory.bad_records_file(self.run.out, self.ranks)
        if self.loader.bad:
            write_text(file, "\n".join(self.loader.bad) + "\n")
        return file

    def _wants_stop(self, request: StopRequest) -> int:
        """The signal that some rank received, 0 if none has: all ranks stop after the same step."""
        [number] = self.ranks.largest([request.number])
        return number

    def _is_readable(self, batches: list[Batch]) -> bool:
        """Whether some rank has something of this step. An epoch without such a step is the end of the run."""
        if self.run.data.on_bad == "stop" or self.ranks.any(bool(batches)):
            self.unreadable_since = None
            return True
        position = self.state.position
        since = self.unreadable_since = self.unreadable_since or position
        if position >= replace(since, epoch=since.epoch + 1):
            first = next(iter(self.loader.bad), "other ranks list them")
            raise DataError(f"nothing of a whole epoch could be read; the first: {first}")
        return False

    def _timed_step(self, step: Step, began: float) -> Row:
        """One step, counted in `state`; returns its metrics."""
        state = self.state
        if self.compiler is not None:
            self.compiler.before(state.step)
        row = self._step(step.batches)
        row["seconds"] = time.perf_counter() - began
        if self.compiler is not None:
            self.compiler.after(state.step, row["tokens"], row["seconds"])
        state.step, state.tokens = row["step"], state.tokens + row["tokens"]
        state.seconds += row["seconds"]
        return row | self.monitor.figures(step.batches, row["seconds"]) | step.figures

    def _step(self, batches: list[Batch]) -> dict[str, Any]:
        """One step of the optimizer; returns what the metrics tell about it."""
        run, model, number = self.run, self.checkpoint.model, self.state.step
        rates = set_rates(self.optimizer, schedule(number, self.state.steps, run.optim))
        [tokens] = self.ranks.sums([sum(batch.num_tokens for batch in batches)])
        tile = self.checkpoint.card.image.size
        batches = balance_batches(batches, model, self.ranks, tile=tile)
        loss, report = train_step(model, self.objective, batches, precision=run.precision, ranks=self.ranks)
        norm = clip_gradients(model, run.optim.clip)
        verdict = self.state.guard.judge(number + 1, loss, norm, run.optim.on_spike, falls=run.policy is None)
        if not verdict.skip:
            self.optimizer.step()
            if run.optim.ema is not None:
                update_average(self.optimizer, run.optim.ema)
        self.optimizer.zero_grad(set_to_none=True)
        row = {"step": number + 1, "loss": loss, **report, "norm": norm, "tokens": int(tokens)}
        return row | {f"lr_{part}": rate for part, rate in rates.items()} | verdict.row


def _prepare(
    run: Run,
    newest: Path | None,
    objective: Objective | None,
    ranks: Ranks,
    answer: Answer | None,
    policy: OpenPolicy | None,
) -> Loop:
    """Model, data, optimizer and state: fresh, or as they were at the checkpoint `newest`."""
    checkpoint, flops = build_model(run, newest, ranks)
    stored, reference = None, None
    if run.policy is not None:
        reference = copy_reference(run, checkpoint, newest, ranks) if run.policy.needs_reference else None
    elif objective is None:
        objective, stored = _objective(run, checkpoint, newest, ranks)
    if not ranks.is_first:  # weights begin alike everywhere, dropout differs
        torch.manual_seed(ranks.seed(run.seed))
    loader = _loader(run, run.data, checkpoint, ranks, stored)
    if run.model.start is None and newest is None:
        standardize(checkpoint.model, loader)
    source: Source = Files(loader, run.optim.rows, ranks)
    if run.policy is not None:
        if policy is None:
            raise ConfigError(
                "policy is set, but nothing samples: train(run, policy=llavakit.align.opening.open_policy)"
            )
        objective, source = policy(run, checkpoint, loader, reference, newest, ranks)
    assert objective is not None
    optimizer = build_optimizer(checkpoint.model, run.optim)
    if newest is not None:
        state = load_state(optimizer, checkpoint.model, newest, ranks)
        refuse_other_data(state, loader.records, run)
        loader.bad |= run_directory.read_bad_records(run.out, ranks)
    else:
        state = State(
            steps=run.optim.steps or source.num_steps(run.optim.epochs), sources=loader.records.facts()
        )
    monitor = Monitor(
        run,
        checkpoint,
        objective,
        flops=flops,
        answer=answer,
        load=lambda data: _loader(run, data, checkpoint, ranks, stored),
        done=state.step,
        ranks=ranks,
    )
    if stored is not None:
        stored.let_go()
    if newest is None and ranks.is_first:
        run_directory.begin(run)
    metrics = Metrics(run.out, done=state.step, writes=ranks.is_first, tensorboard=run.watch.tensorboard)
    compiler = Compiler(checkpoint.model, state.step) if run.compile else None
    return Loop(
        run, checkpoint, loader, source, optimizer, objective, ranks, state, metrics, monitor, compiler
    )


def train_step(
    model: Llava, objective: Objective, batches: list[Batch], *, precision: str, ranks: Ranks = ALONE
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of one step; returns loss and reports per unit.

    Every batch is divided by what all of them have of each unit, on all ranks, so any split of a step gives the
    same gradient.
    """
    totals = add_totals(map(objective.weights, batches), ranks)
    if not any(totals.values()):
        raise ConfigError("a step has nothing to learn: no token carries weight; look at `llavakit inspect`")
    tally = Tally()
    with autocast(model, precision):
        prepared = objective.prepare(model, batches, ranks)
    for number, batch in enumerate(prepared, 1):
        reduce_copies(model, number == len(prepared))
        with autocast(model, precision):
            found = objective.loss(model, batch.to(model.device))
        found.share(totals).backward()
        tally.add(found)
    sum_gradients(model, batches, ranks)
    figures = tally.figures(totals, ranks)
    return figures.pop("loss"), figures


def _settle(run: Run, ranks: Ranks, started: Run | None) -> Run:
    """The run with nothing left to choose: as it was started, whatever machine it wakes up on."""
    card = complete_card(run.model)
    if started is not None:
        return run.settled(card, started.precision)
    if run.precision != "auto":
        return run.settled(card, run.precision)
    [bf16] = ranks.sums(
        [ranks.is_first and fastest_precision(ranks.device) == "bf16"]
    )  # one measures for all
    return run.settled(card, "bf16" if bf16 else "float32")


def _objective(
    run: Run, checkpoint: Checkpoint, newest: Path | None, ranks: Ranks
) -> tuple[Objective, StoredReference | None]:
    """What the run's settings ask for, and what must know the data's answers before the first step.

    A reference is the model that the run started from, on resume too.
    """
    if run.kto is not None:
        return Kto(run.kto, copy_reference(run, checkpoint, newest, ranks)), None
    if run.reward is not None:
        return RewardPairs(run.reward), None
    if run.preference is None:
        return SFT(), None
    switch_off_dropout(checkpoint.model)
    if not run.preference.needs_reference:
        return Preference(run.preference, None), None
    if run.preference.reference is None:
        return Preference(run.preference, copy_reference(run, checkpoint, newest, ranks)), None
    started_from = checkpoint if newest is None else build_model(run, None, ranks)[0]
    stored = StoredReference(run.preference.reference, started_from, run, ranks)
    return Preference(run.preference, stored), stored


def _loader(
    run: Run, data: DataConfig, checkpoint: Checkpoint, ranks: Ranks, stored: StoredReference | None
) -> Loader:
    """Opens data, with the features of its pictures and the reference's answers where they are kept on disk."""
    card = checkpoint.card
    encoder = Encoder(
        checkpoint.tokenizer, card.prompt(), card.image, card.video,
        weights=data.weights, context=checkpoint.model.context, stretched=checkpoint.model.stretched,
    )  # fmt: skip
    key = None if stored is None else stored.key
    changed = 1.0 if run.preference is None else run.preference.changed_weight
    loader = Loader(
        data,
        encoder,
        seed=run.seed,
        pairs=run.reads_pairs,
        judged=run.kto is not None,
        changed_weight=changed,
        grader=open_grader(run.reward, run.seed),
        key=key,
    )
    lengths = data.lengths or (run.out / LENGTHS if ranks.size > 1 else None)
    if lengths is not None and run.policy is None:  # prompts are not packed
        loader.note_lengths(lengths, rank=ranks.rank, ranks=ranks.size)
    if data.features is not None:
        loader.cache = _features(run, data.features, loader, checkpoint.model.tower, ranks)
    if stored is not None:
        stored.fill(loader)
    return loader


def _features(run: Run, folder: Path, loader: Loader, tower: Tower, ranks: Ranks) -> FeatureCache:
    """The tower's output for all that the data shows; the first rank computes what is missing."""
    if "tower" in run.train:
        raise ConfigError("data.features caches the tower's output, but train includes the tower; drop one")
    with ranks.first_ahead():
        cache = FeatureCache(folder, tower.fingerprint())
        cache.fill(
            loader.media_by_record(),
            lambda pixels_NHWC: tower(pixels_NHWC.to(ranks.device)),
            total=len(loader.records),
        )
    return cache


def _headline(loop: Loop) -> str:
    run, model, ranks, state = loop.run, loop.checkpoint.model, loop.ranks, loop.state
    parts = ", ".join(
        _tell_part(name, model.part(name)) for name in PARTS if list(model.part(name).parameters())
    )
    begin = f"from step {state.step} " if state.step else ""
    how = "each a share of the model" if is_sharded(model) else "each the whole model"
    idle = tell_idle(run.optim.rows, run.data.tokens, ranks.size) if run.policy is None else ""
    team = f" on {ranks.size} ranks, {how}{idle}" if ranks.size > 1 else ""
    return f"{run.name}: {len(loop.loader.records)} records, {begin}to step {state.steps}{team}; {parts}"


def _tell_part(name: str, part: nn.Module) -> str:
    """`language 6738.4M trained`, or how much of it: adapters are a small share of what they are in."""
    count = sum(p.numel() for p in part.parameters())
    learned = sum(p.numel() for p in part.parameters() if p.requires_grad)
    if 0 < learned < count:
        return f"{name} {learned / 1e6:.1f}M of {count / 1e6:.1f}M trained"
    return f"{name} {count / 1e6:.1f}M {'trained' if learned else 'frozen'}"
