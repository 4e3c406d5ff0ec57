"""A run of benchmarks: ask, keep the answers, score them, write results. Scoring alone goes over the same files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError
from llavakit.core.files import read_json, write_text
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.eval.answers import Answers, open_answers, read_answers
from llavakit.eval.ask import OnBad, ask_all
from llavakit.eval.compare import Comparison, compare
from llavakit.eval.pages import draw_comparison, draw_index, draw_page
from llavakit.eval.plan import Plan, benchmark_of, open_plan, plan_tasks
from llavakit.eval.repeats import sum_up
from llavakit.eval.reviews import Reviewer, reviews, with_answers
from llavakit.eval.score import Score, Verdict, score_answers
from llavakit.rules.thinking import strip_thinking

ANSWERS, SETTINGS, RESULTS, PAGE, INDEX = (
    "answers.jsonl", "settings.json", "results.json", "report.html", "index.html",
)  # fmt: skip
APART = 1_000_000_007  # between the seeds of two repeats: more than questions


def evaluate(
    responder: Responder,
    who: Mapping[str, Any],
    plans: Sequence[Plan],
    out: Path,
    *,
    rules: str | None = None,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    repeats: int = 1,
    on_bad: OnBad = "stop",
    reviewer: Reviewer | None = None,
) -> list[Score]:
    """Ask every task's questions and score the answers; results are written after each. `who` names the model.

    Tasks that a server scores have no score here: their answers are written as it takes them. Those that a judge
    scores have one if there is a `reviewer`, which is tried first.
    """
    if reviewer is not None:
        reviewer.check([row.judging for plan in plans if (row := plan.benchmark).judging])
    if repeats > 1 and temperature == 0:
        raise ConfigError("greedy answers are the same every time; give --temperature with --repeats")
    scores = []
    for plan in plans:
        folder, runs = out / plan.task, []
        for repeat in range(repeats):
            sampling = Sampling(
                max_tokens=max_tokens or plan.benchmark.max_tokens,
                temperature=temperature,
                seed=repeat * APART,
            )
            said = sampling.model_dump(mode="json", exclude_defaults=True)
            header = {"task": plan.task, **who, "sampling": said}
            with open_answers(folder / file_of(repeat), header) as (answers, writer):
                settings = {"folder": str(plan.folder.absolute()), "limit": plan.limit, "rules": rules}
                write_text(folder / SETTINGS, json.dumps(settings))
                answers.check_prompts(plan.everything)
                title = plan.task if repeats == 1 else f"{plan.task} {repeat + 1}/{repeats}"
                ask_all(
                    responder, plan.questions, answers, writer, sampling=sampling, on_bad=on_bad, title=title
                )
            runs.append(answers)
        scores += finish(out, plan, runs, rules, reviewer)
    return scores


def file_of(repeat: int) -> str:
    """Where the answers of a repeat are: answers.jsonl, answers-2.jsonl, ..."""
    return f"answers-{repeat + 1}.jsonl" if repeat else ANSWERS


def kept(out: Path, data: Path | None, rules: str | None) -> Iterator[tuple[Plan, list[Answers], str | None]]:
    """The tasks of a run with the answers of every repeat, and the rule set that they are scored by."""
    found = sorted(out.glob(f"*/{ANSWERS}"))
    if not found:
        raise ConfigError(f"{out} is not the directory of an evaluation: no TASK/{ANSWERS} in it")
    for path in found:
        settings = read_json(path.with_name(SETTINGS))
        task = path.parent.name
        if data is None:
            plan = open_plan(task, Path(settings["folder"]), settings["limit"])
        else:
            [plan] = plan_tasks([task], data, settings["limit"], rules)
        runs = [read_answers(path)]
        while (more := path.with_name(file_of(len(runs)))).exists():
            runs.append(read_answers(more))
        for answers in runs:
            answers.check_prompts(plan.everything)
        yield plan, [runs[0], *(each for each in runs[1:] if each.given)], rules or settings["rules"]


def rescore(
    out: Path, *, data: Path | None = None, rules: str | None = None, reviewer: Reviewer | None = None
) -> list[Score]:
    """Score the answers of a run again, without a model; with other rules, or from data that has moved.

    With a `reviewer` what a judge scores is judged where it is not yet.
    """
    found = list(kept(out, data, rules))
    if reviewer is not None:
        reviewer.check([row.judging for plan, _, _ in found if (row := plan.benchmark).judging])
    return [score for each in found for score in finish(out, *each, reviewer)]


def finish(
    out: Path, plan: Plan, runs: Sequence[Answers], rules: str | None, reviewer: Reviewer | None
) -> list[Score]:
    """The score of a task's answers, written; or the file for the server that scores them."""
    if not plan.benchmark.rules:
        write_submission(out, plan, runs[0])
        return []
    texts = judged(out, plan, runs, reviewer)
    if texts is None:
        return []
    scored = [score_answers(plan.task, plan.benchmark, plan.questions, answers, rules) for answers in texts]
    score, verdicts = scored[0]
    if plan.benchmark.judging is not None:
        verdicts = with_answers(verdicts, runs[0])
    if len(scored) > 1:
        score = replace(score, repeats=sum_up(plan.benchmark, score.rules, [each for _, each in scored]))
    write_results(out, score, verdicts)
    return [score]


def judged(out: Path, plan: Plan, runs: Sequence[Answers], reviewer: Reviewer | None) -> list[Answers] | None:
    """What the rules read: the answers, or the reviews of them. None where nobody has judged them."""
    judging = plan.benchmark.judging
    if judging is None:
        return list(runs)
    found = [
        reviews(judging, plan.questions, answers, out / plan.task, repeat, reviewer)
        for repeat, answers in enumerate(runs)
    ]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None


def write_submission(out: Path, plan: Plan, answers: Answers) -> None:
    """The answers as the server takes them; those of questions that could not be asked are empty."""
    submission = plan.benchmark.submission
    assert submission is not None
    asked = [question for question in plan.questions if question.id in answers.given]
    said = [strip_thinking(answers.given[question.id].answer) for question in asked]
    (out / plan.task / submission.file).write_bytes(submission.write(asked, said))


def handed_in(out: Path) -> list[tuple[Path, str]]:
    """The files for servers in a run, and where each goes."""
    rows = [
        (path.parent, benchmark_of(path.parent.name).submission) for path in sorted(out.glob(f"*/{ANSWERS}"))
    ]
    return [(folder / row.file, row.server) for folder, row in rows if row and (folder / row.file).exists()]


def write_results(out: Path, score: Score, verdicts: Sequence[Verdict]) -> None:
    """The score into results.json, beside those of other tasks and rule sets, and the pages that show it."""
    path = out / RESULTS
    results = read_json(path) if path.exists() else {}
    results.setdefault(score.task, {})[score.rules] = asdict(score)
    write_text(path, json.dumps(results, indent=1) + "\n")
    write_text(out / score.task / PAGE, draw_page(score, verdicts))
    write_text(out / INDEX, draw_index(out.name, results, PAGE))


def compare_runs(
    first: Path, second: Path, out: Path, *, data: Path | None = None, rules: str | None = None
) -> list[Comparison]:
    """Every task that both runs have, its first repeat; a page of the answers that changed is written to `out`."""
    if first.resolve() == second.resolve():
        raise ConfigError("a run is compared with another one")
    before = {plan.task: (plan, runs[0]) for plan, runs, _ in kept(first, data, rules)}
    found = []
    for plan, runs, chosen in kept(second, data, rules):
        if plan.task not in before or not plan.benchmark.rules:
            continue
        own, answers = before[plan.task]
        name, how = plan.benchmark.choose(chosen)
        texts = judged(first, own, [answers], None), judged(second, plan, runs[:1], None)
        if texts[0] is None or texts[1] is None:
            raise ConfigError(
                f"{plan.task}: not judged in both runs: llavakit eval rescore RUN --judge DIR_OR_URL"
            )
        _, one = score_answers(plan.task, own.benchmark, own.questions, texts[0][0], name)
        _, other = score_answers(plan.task, plan.benchmark, plan.questions, texts[1][0], name)
        found.append(compare(plan.task, name, how.aggregate, one, other))
    if not found:
        raise ConfigError(f"{first} and {second} have no scored task in common")
    for each in found:
        write_text(out / f"{each.task}.html", draw_comparison(each, str(first), str(second)))
    table = [asdict(replace(each, flips=())) | {"flips": _named(each)} for each in found]
    write_text(out / "comparison.json", json.dumps(table, indent=1) + "\n")
    return found


def _named(comparison: Comparison) -> list[dict[str, Any]]:
    """The flips as results: ids, answers and points."""
    return [
        {
            "id": flip.before.question.id, "answers": [flip.before.given.answer, flip.after.given.answer],
            "points": [flip.before.point, flip.after.point],
        }
        for flip in comparison.flips
    ]  # fmt: skip
