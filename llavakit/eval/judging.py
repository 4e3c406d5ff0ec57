"""Benchmarks whose answers a judge scores: how it is asked about them, and what its reviews sum up to."""

from collections.abc import Callable, Mapping, Sequence

from llavakit.critic.formats import Format
from llavakit.data.cases import Case
from llavakit.eval.benchmark import Asked, Figures, Judging, Points, Question
from llavakit.rules.means import mean


def one_by_one(
    form: Format, reference: Callable[[Question], str], context: Callable[[Question], str] | None = None
) -> Judging:
    """Every answer on its own, with the reference and the context that its question has."""

    def ask(questions: Sequence[Question], answers: Mapping[str, str]) -> Asked:
        return {
            question.id: (
                form,
                Case(
                    question.id, question.conversation.messages[0].text,
                    question.conversation.media if form.sees else (), (answers[question.id],),
                    reference(question), "" if context is None else context(question),
                ),
            )
            for question in questions
        }  # fmt: skip

    return Judging(ask, (form,))


def mean_figures(
    name: str, scale: Callable[[float], float]
) -> Callable[[Sequence[Question], Points], Figures]:
    """An aggregate: the mean over what the judge's reviews say, of all and of each group that has one."""

    def figures(questions: Sequence[Question], points: Points) -> Figures:
        groups = list(dict.fromkeys(question.group for question in questions))
        rows = [(q.group, scale(p)) for q, p in zip(questions, points, strict=True) if p is not None]
        found = {name: mean([value for _, value in rows])}
        if len(groups) > 1:
            said = {own for own, _ in rows}
            found |= {
                group: mean([value for own, value in rows if own == group])
                for group in groups
                if group in said
            }
        return found

    return figures
