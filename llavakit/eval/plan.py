"""What a run of benchmarks will ask: known from names and files alone, before anybody waits for a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llavakit.core.errors import ConfigError, DataError, pick
from llavakit.eval.benchmark import Benchmark, Question
from llavakit.eval.controls import CONTROLS
from llavakit.eval.tasks.table import BENCHMARKS, JUDGED


@dataclass(frozen=True)
class Plan:
    """What to ask: the questions of a benchmark, out of a folder."""

    task: str  # with its control, if it has one
    folder: Path
    limit: int | None
    everything: tuple[Question, ...]

    @property
    def benchmark(self) -> Benchmark:
        return benchmark_of(self.task)

    @cached_property
    def questions(self) -> list[Question]:
        """The first `limit` of them; what counts together (all rotations of one) is one."""
        units = dict.fromkeys(question.unit or question.id for question in self.everything)
        kept = set(list(units)[: self.limit])
        return [question for question in self.everything if (question.unit or question.id) in kept]


def benchmark_of(task: str) -> Benchmark:
    """The row of a name, whatever control stands behind it."""
    return pick(BENCHMARKS | JUDGED, task.partition(".")[0], "benchmark")


def plan_tasks(tasks: Sequence[str], data: Path | None, limit: int | None, rules: str | None) -> list[Plan]:
    """Every task with its questions from DATA/TASK, or from DATA itself where there is no such folder.

    Everything that can be known before a model is asked, which may take hours, is refused here.
    """
    if data is not None and not data.is_dir():
        raise DataError("not a folder", path=data)
    for task in tasks:
        row = benchmark_of(task)
        if row.rules:
            row.choose(rules)
        if data is None and not row.built_in:
            raise ConfigError("give --data with the folder of the benchmarks' files")
    plans = []
    for task in dict.fromkeys(tasks):
        own = Path() if data is None else data / task.partition(".")[0]
        plans.append(open_plan(task, own if data is None or own.is_dir() else data, limit))
    return plans


def open_plan(task: str, folder: Path, limit: int | None) -> Plan:
    questions = benchmark_of(task).questions(folder)
    _, dot, control = task.partition(".")
    if dot:
        questions = pick(CONTROLS, control, "control")(questions)
    return Plan(task, folder, limit, tuple(questions))
