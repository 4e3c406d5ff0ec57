"""Asking: questions to answers, in batches that share pictures, kept as they come."""

from collections.abc import Iterator, Sequence
from typing import Literal

from llavakit.core.errors import DataError, Interrupted, UserError
from llavakit.core.neighbours import neighbours
from llavakit.core.progress import bar
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.eval.answers import SKIPPED, Answers, Digests, Given, Writer, picture_digests, prompt_digest
from llavakit.eval.benchmark import Question

CHUNK = 64  # questions asked at once; what a killed process loses at most
OnBad = Literal["stop", "skip"]


def ask_all(
    responder: Responder,
    questions: Sequence[Question],
    answers: Answers,
    writer: Writer,
    *,
    sampling: Sampling,
    on_bad: OnBad,
    title: str,
) -> None:
    """Ask what is not answered yet. Ctrl-C keeps what is done.

    A question that cannot be asked (a broken picture) stops everything, or is skipped, counted, and tried again by
    the next run. A question draws from the seed and its place, whatever was answered before.
    """
    asked: list[Question] = []
    left: list[tuple[int, Question]] = []
    # Questions about one picture share its prompt.
    ordered = neighbours(questions, lambda question: question.conversation.media[:1])
    for place, question in enumerate(ordered):
        given = answers.given.get(question.id)
        if given is None or given.skipped:
            left.append((place, question))
        else:
            asked.append(question)
    digests: Digests = {}
    for question in asked:
        answers.check_pictures(question, picture_digests(question, digests))
    done = len(asked)
    try:
        with bar(title, len(questions), done=done) as progress:
            for place, chunk in chunks(left):
                new = _ask(responder, chunk, _from(sampling, place), on_bad, digests)
                writer.add(new)
                answers.given.update({one.id: one for one in new})
                progress.advance(len(chunk))
                done += len(chunk)
    except KeyboardInterrupt:
        raise Interrupted(f"{title}: {done} of {len(questions)} answered", "the same command", 130) from None


def chunks(left: Sequence[tuple[int, Question]]) -> Iterator[tuple[int, list[Question]]]:
    """At most CHUNK questions whose places follow each other, with the first place."""
    at = 0
    while at < len(left):
        end = at + 1
        while end < min(len(left), at + CHUNK) and left[end][0] == left[end - 1][0] + 1:
            end += 1
        yield left[at][0], [question for _, question in left[at:end]]
        at = end


def _from(sampling: Sampling, place: int) -> Sampling:
    """A responder draws its i-th answer from seed + i."""
    return sampling.model_copy(update={"seed": sampling.seed + place})


def _ask(
    responder: Responder,
    questions: Sequence[Question],
    sampling: Sampling,
    on_bad: OnBad,
    digests: Digests,
) -> list[Given]:
    """What becomes of each question."""
    found: dict[int, Given] = {}
    talks = [question.conversation for question in questions]
    for number, outcome in responder.outcomes(talks, sampling=sampling):
        question = questions[number]
        try:
            if isinstance(outcome, UserError):
                raise outcome
            pictures = picture_digests(question, digests)
        except DataError as error:
            if on_bad == "stop":
                what = f"question {question.id!r}: {error}; or leave such out with --on-bad skip"
                raise DataError(what) from None
            found[number] = Given(question.id, prompt_digest(question), (), "", SKIPPED, str(error))
        else:
            found[number] = Given(
                question.id, prompt_digest(question), pictures, outcome.text, outcome.finish
            )
    return [found[number] for number in sorted(found)]
