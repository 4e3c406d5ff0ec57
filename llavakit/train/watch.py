"""What looks on while a run trains and changes nothing in it: speed, held-out loss, probes."""

from collections.abc import Callable, Sequence

from llavakit.core.errors import ConfigError
from llavakit.core.types import Batch
from llavakit.data.loader import DataConfig, Loader
from llavakit.model.checkpoint import Checkpoint
from llavakit.train.evaluation import evaluate
from llavakit.train.flops import StepFlops, measure_peak
from llavakit.train.metrics import Row
from llavakit.train.objectives import Objective
from llavakit.train.probes import Answer, Probes
from llavakit.train.run import Run
from llavakit.train.state import State


class Watch:
    """The onlookers of one run. Build it after freezing, before the model is spread over devices."""

    def __init__(
        self,
        run: Run,
        checkpoint: Checkpoint,
        objective: Objective,
        *,
        answer: Answer | None,
        load: Callable[[DataConfig], Loader],
        done: int,
    ) -> None:
        """`load` opens data as the run's own is opened; `done` steps are behind a resumed run."""
        self.run, self.checkpoint, self.objective = run, checkpoint, objective
        self.flops = StepFlops(checkpoint.model)
        self.peak = measure_peak(checkpoint.model.device, run.precision)
        self.held_out = load(run.eval.data(run.data)) if run.eval.files else None
        self.probes: Probes | None = None
        if run.probes.file is not None:
            if answer is None:
                raise ConfigError(
                    "probes.file is set, but nothing can answer: train(run, answer=llavakit.chat.answer)"
                )
            self.probes = Probes(run.probes, checkpoint, answer, run.out, done=done)

    def figures(self, batches: Sequence[Batch], seconds: float) -> Row:
        """What a step's rows say about speed.

        `learned` counts the tokens that are learned, `budget` is the share of data.tokens that rows fill (none of
        it is padding), `mfu` the share of this device's best matrix products.
        """
        tokens = sum(batch.num_tokens for batch in batches)
        flops = self.flops.count(batches)
        return {
            "tokens_per_second": tokens / seconds,
            "learned": sum(len(batch.predict_L) for batch in batches),
            "budget": tokens / (len(batches) * self.run.data.tokens),
            "flops": flops,
            "mfu": flops / seconds / self.peak,
        }

    def look(self, state: State) -> Row:
        """After step `state.step`: the held-out loss and new answers, where it is time for them."""
        row: Row = {}
        last = state.step == state.steps
        if self.held_out is not None and (last or state.step % self.run.eval.every == 0):
            row = evaluate(
                self.checkpoint.model,
                self.objective,
                self.held_out,
                precision=self.run.precision,
                rows=self.run.eval.rows,
            )
        if self.probes is not None and (last or state.step % self.run.probes.every == 0):
            self.probes.ask(state.step)
        return row
