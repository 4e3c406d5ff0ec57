"""Reviews: what a judge says of the answers to a benchmark, in the place of answers, for rules to read.

They are a journal beside the answers (`verdicts-FORMAT.jsonl`), so scoring again needs no judge, and judging goes
on where it ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llavakit.core.errors import TooManyFailures
from llavakit.core.journal import Row, read_journal
from llavakit.critic.gold import check_gold, drawn_cases
from llavakit.critic.judge import LOST, Judge
from llavakit.critic.run import MOST_FAILED, judge_file
from llavakit.engine.responder import Responder
from llavakit.eval.answers import SKIPPED, Answers, Given
from llavakit.eval.benchmark import Judging, Question
from llavakit.eval.score import Verdict
from llavakit.rules.thinking import strip_thinking


@dataclass(frozen=True)
class Reviewer:
    """Who judges a run, the names that its verdicts are kept under, and the least agreement with the gold set."""

    responder: Responder
    who: Mapping[str, Any]
    bar: float

    def check(self, judgings: Sequence[Judging]) -> None:
        """ConfigError, before a model is asked, where the judge fails drawn cases in a format that is needed."""
        if self.bar:
            for form in {form.name: form for judging in judgings for form in judging.formats}.values():
                check_gold(Judge(self.responder, form), drawn_cases(1), self.bar)


def reviews(
    judging: Judging,
    questions: Sequence[Question],
    answers: Answers,
    folder: Path,
    repeat: int,
    reviewer: Reviewer | None,
) -> Answers | None:
    """What a judge said of the answers, as answers: of those judged already, and with a reviewer of all.

    None where nothing is judged and nobody is there to judge. TooManyFailures where too few reviews came.
    """
    given = {one.id: one for one in answers.given.values() if not one.skipped}
    asked = judging.ask(
        [question for question in questions if question.id in given],
        {one.id: strip_thinking(one.answer) for one in given.values()},
    )
    said: dict[str, Row] = {}
    for form in judging.formats:
        path = folder / f"verdicts-{form.name}{f'-{repeat + 1}' if repeat else ''}.jsonl"
        cases = {case.id: case for each, case in asked.values() if each is form}
        if reviewer is not None and cases:
            outcome = judge_file(Judge(reviewer.responder, form), [*cases.values()], path, who=reviewer.who)
            lost = sum(outcome.problems[problem] for problem in LOST)
            if lost > MOST_FAILED * outcome.wanted:
                raise TooManyFailures(
                    f"{path}: {lost} of {outcome.wanted} reviews did not come; the same command asks for them again"
                )
            said |= {row["id"]: row for row in outcome.rows}
        elif path.exists():
            said |= {row["id"]: row for row in read_journal(path)}
    if asked and not said:
        return None
    found = {}
    for name_of, (_, case) in asked.items():
        if case.id in said:
            row, one = said[case.id], given[name_of]
            lost_one = row["problem"] in (*LOST, "media")
            finish = SKIPPED if lost_one else one.finish
            found[name_of] = replace(one, answer=row["said"], finish=finish)
    kept = {one.id: one for one in answers.given.values() if one.skipped}
    return Answers(answers.path, answers.header, found | kept)


def with_answers(verdicts: Sequence[Verdict], answers: Answers) -> list[Verdict]:
    """Verdicts on reviews for people to read: the answer, and what the judge said of it."""

    def both(given: Given) -> Given:
        return replace(given, answer=f"{answers.given[given.id].answer}\n\nJudge: {given.answer}")

    return [replace(verdict, given=both(verdict.given)) for verdict in verdicts]
