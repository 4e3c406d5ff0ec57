"""What looks on while a run trains and changes nothing in it: speed, held-out loss, probes, short answers."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from llavakit.core.errors import ConfigError
from llavakit.core.types import Batch
from llavakit.data.loader import Loader
from llavakit.data.settings import DataConfig
from llavakit.model.checkpoint import Checkpoint
from llavakit.text.conversation import Conversation
from llavakit.train.evaluation import evaluate
from llavakit.train.flops import StepFlops, measure_peak
from llavakit.train.metrics import Row
from llavakit.train.objectives import Objective
from llavakit.train.probes import Answer, Probes
from llavakit.train.ranks import ALONE, Ranks
from llavakit.train.retention import Retention
from llavakit.train.run import Run
from llavakit.train.sharding import is_sharded
from llavakit.train.state import State

NEAR = 0.8  # of the peak: no step of a real model gets there


class Monitor:
    """The onlookers of one run. What looks at the model runs on every rank, so that none waits for another."""

    def __init__(
        self,
        run: Run,
        checkpoint: Checkpoint,
        objective: Objective,
        *,
        flops: StepFlops,
        answer: Answer | None,
        load: Callable[[DataConfig], Loader],
        done: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """`flops` counts for the model before it was sharded. `load` opens data as the run's own is opened.

        `done` steps are behind a resumed run.
        """
        self.run, self.checkpoint, self.objective, self.ranks = run, checkpoint, objective, ranks
        self.flops = flops
        self.peak = self._measure_peak()  # of all devices
        self._highest_mfu = NEAR
        self.held_out = load(run.eval.data(run.data)) if run.eval.files else None
        self.probes: Probes | None = None
        if run.probes.file is not None and (asks := self._answers(answer, "probes.file")) is not None:
            self.probes = Probes(run.probes, checkpoint, asks, run.out, done=done)
        self.retention: Retention | None = None
        if run.retention.files and (asks := self._answers(answer, "retention.files")) is not None:
            self.retention = Retention(run.retention, checkpoint, asks, run.out, done=done)

    def _answers(self, answer: Answer | None, setting: str) -> Answer | None:
        """Who answers for this rank: the first one alone asks. ConfigError where nobody can."""
        if answer is None:
            raise ConfigError(
                f"{setting} is set, but nothing can answer: train(run, answer=llavakit.chat.answer)"
            )
        if is_sharded(self.checkpoint.model):
            raise ConfigError(
                f"{setting}: no rank of a sharded model can answer alone; "
                "leave it out, or use parallel.mode=ddp"
            )
        if not self.ranks.is_first:
            return None
        bf16 = self.run.precision == "bf16" and self.checkpoint.adapter is not None  # its matrices may be
        return partial(_answer_in_bf16, answer) if bf16 else answer

    def figures(self, batches: Sequence[Batch], seconds: float) -> Row:
        """What a step's rows say about speed; `batches` are this rank's, the figures are those of all.

        `learned` counts the tokens that are learned, `budget` is the share of data.tokens that rows fill (none of
        it is padding), `mfu` the share of the devices' best matrix products.
        """
        mine = [
            sum(batch.num_tokens for batch in batches),
            sum(len(batch.predict_L) for batch in batches),
            len(batches),
            self.flops.count(batches),
        ]
        tokens, learned, rows, flops = self.ranks.sums(mine)
        return {
            "tokens_per_second": tokens / seconds,
            "learned": int(learned),
            "budget": tokens / (rows * self.run.data.tokens),
            "flops": int(flops),
            "mfu": self._mfu(flops / seconds),
        }

    def _mfu(self, flops_per_second: float) -> float:
        """A step that comes near the peak, and nearer than any before, makes it doubtful: it is measured again."""
        if flops_per_second / self.peak > self._highest_mfu:
            self.peak = max(self.peak, self._measure_peak(seconds=0.5))
            self._highest_mfu = max(NEAR, 1.02 * flops_per_second / self.peak)
        return flops_per_second / self.peak

    def _measure_peak(self, *, seconds: float = 0.1) -> float:
        device = self.checkpoint.model.device
        [peak] = self.ranks.sums([measure_peak(device, self.run.precision, seconds=seconds)])
        return peak

    def is_due(self, state: State) -> bool:
        """Whether there is anything to look at after this step; the same on every rank."""
        evaluates = bool(self.run.eval.files) and _is_time(state, self.run.eval.every)
        probes = self.run.probes.file is not None and _is_time(state, self.run.probes.every)
        return evaluates or probes or (bool(self.run.retention.files) and self._asks(state))

    def begin(self, state: State) -> None:
        """Before the first step: what the model answers that the run starts from."""
        if self.retention is not None and not self.retention.answers:
            self.retention.ask(state.step)

    def _asks(self, state: State) -> bool:
        every = self.run.retention.every
        return state.step == state.steps or bool(every and state.step % every == 0)

    def look(self, state: State) -> Row:
        """After step `state.step`: the held-out loss and new answers, where it is time for them."""
        row: Row = {}
        if self.held_out is not None and _is_time(state, self.run.eval.every):
            row = evaluate(
                self.checkpoint.model,
                self.objective,
                self.held_out,
                precision=self.run.precision,
                rows=self.run.eval.rows,
                ranks=self.ranks,
            )
        if self.probes is not None and _is_time(state, self.run.probes.every):
            self.probes.ask(state.step)
        if self.retention is not None and self._asks(state):
            row |= self.retention.ask(state.step)
            self.retention.tell()
        return row


def _answer_in_bf16(
    answer: Answer, checkpoint: Checkpoint, talks: Sequence[Conversation], max_tokens: int
) -> list[str]:
    """As the run computes: what is frozen may be held in bfloat16."""
    with torch.autocast(checkpoint.model.device.type, torch.bfloat16):
        return answer(checkpoint, talks, max_tokens)


def _is_time(state: State, every: int) -> bool:
    return state.step == state.steps or state.step % every == 0
