"""A run of benchmarks: ask, keep the answers, score them, write results. Scoring alone goes over the same files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError, DataError, pick
from llavakit.core.files import read_json, write_text
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.eval.answers import open_answers, read_answers
from llavakit.eval.ask import OnBad, ask_all
from llavakit.eval.benchmark import Benchmark, Question
from llavakit.eval.report import draw_page
from llavakit.eval.score import Score, Verdict, score_answers
from llavakit.eval.tasks.table import BENCHMARKS

ANSWERS, SETTINGS, RESULTS, PAGE = "answers.jsonl", "settings.json", "results.json", "report.html"


@dataclass(frozen=True)
class Plan:
    """What to ask: the questions of a benchmark, out of a folder."""

    task: str
    folder: Path
    limit: int | None
    everything: tuple[Question, ...]

    @property
    def benchmark(self) -> Benchmark:
        return BENCHMARKS[self.task]

    @property
    def questions(self) -> list[Question]:
        """The first `limit` of them; what counts together (all rotations of one) is one."""
        units = dict.fromkeys(question.unit or question.id for question in self.everything)
        kept = set(list(units)[: self.limit])
        return [question for question in self.everything if (question.unit or question.id) in kept]


def plan_tasks(tasks: Sequence[str], data: Path, limit: int | None, rules: str | None) -> list[Plan]:
    """Every task with its questions from DATA/TASK, or from DATA itself where there is no such folder.

    Everything that can be known before a model is asked, which may take hours, is refused here.
    """
    if not data.is_dir():
        raise DataError("not a folder", path=data)
    for task in tasks:
        pick(BENCHMARKS, task, "benchmark").choose(rules)
    return [
        _plan(task, data / task if (data / task).is_dir() else data, limit) for task in dict.fromkeys(tasks)
    ]


def _plan(task: str, folder: Path, limit: int | None) -> Plan:
    return Plan(task, folder, limit, tuple(pick(BENCHMARKS, task, "benchmark").questions(folder)))


def evaluate(
    responder: Responder,
    who: Mapping[str, Any],
    plans: Sequence[Plan],
    out: Path,
    *,
    rules: str | None = None,
    max_tokens: int | None = None,
    on_bad: OnBad = "stop",
) -> list[Score]:
    """Ask every task's questions and score the answers; results are written after each. `who` names the model."""
    scores = []
    for plan in plans:
        questions = plan.questions
        sampling = Sampling(max_tokens=max_tokens or plan.benchmark.max_tokens)
        header = {
            "task": plan.task,
            **who,
            "sampling": sampling.model_dump(mode="json", exclude_defaults=True),
        }
        folder = out / plan.task
        with open_answers(folder / ANSWERS, header) as (answers, writer):
            write_text(
                folder / SETTINGS,
                json.dumps({"folder": str(plan.folder.absolute()), "limit": plan.limit, "rules": rules}),
            )
            answers.check_prompts(plan.everything)
            ask_all(responder, questions, answers, writer, sampling=sampling, on_bad=on_bad, title=plan.task)
            score, verdicts = score_answers(plan.task, plan.benchmark, questions, answers, rules)
        scores.append(score)
        write_results(out, score, verdicts)
    return scores


def rescore(out: Path, *, data: Path | None = None, rules: str | None = None) -> list[Score]:
    """Score the answers of a run again, without a model; with other rules, or from data that has moved."""
    found = sorted(out.glob(f"*/{ANSWERS}"))
    if not found:
        raise ConfigError(f"{out} is not the directory of an evaluation: no TASK/{ANSWERS} in it")
    scores = []
    for path in found:
        settings = read_json(path.with_name(SETTINGS))
        task = path.parent.name
        if data is None:
            plan = _plan(task, Path(settings["folder"]), settings["limit"])
        else:
            [plan] = plan_tasks([task], data, settings["limit"], rules)
        answers = read_answers(path)
        answers.check_prompts(plan.everything)
        score, verdicts = score_answers(
            task, plan.benchmark, plan.questions, answers, rules or settings["rules"]
        )
        scores.append(score)
        write_results(out, score, verdicts)
    return scores


def write_results(out: Path, score: Score, verdicts: Sequence[Verdict]) -> None:
    """The score into results.json, beside those of other tasks and rule sets, and the page of answers."""
    path = out / RESULTS
    results = read_json(path) if path.exists() else {}
    results.setdefault(score.task, {})[score.rules] = asdict(score)
    write_text(path, json.dumps(results, indent=1) + "\n")
    write_text(out / score.task / PAGE, draw_page(score, verdicts))
