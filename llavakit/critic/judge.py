"""A judge: who is asked, in which format, and how verdicts are read. What it could not say is never a score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llavakit.chat import Chat
from llavakit.core.errors import ConfigError, DataError, RemoteTimeout, UserError
from llavakit.core.faulty import set_apart
from llavakit.critic.expected import expected_values
from llavakit.critic.formats import Format, recognise
from llavakit.data.cases import Case
from llavakit.engine.responder import Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.rules.rankings import reverse_letters
from llavakit.rules.thinking import strip_thinking
from llavakit.text.conversation import Conversation, words_digest

# Why there is no score: no verdict, one outside the scale, a server's error, no answer in time, a broken picture.
Problem = Literal["", "unread", "range", "http", "timeout", "media"]
LOST: frozenset[Problem] = frozenset(("http", "timeout"))  # no answer came; another run asks again
WORDS = Sampling(max_tokens=1024)  # greedy, as the judges of the series


@dataclass(frozen=True)
class Ask:
    """One question to a judge: a case, its two answers in the other order if `swapped`."""

    case: Case
    swapped: bool = False

    @property
    def key(self) -> tuple[str, bool]:
        """Its name within a file."""
        return self.case.id, self.swapped


@dataclass(frozen=True)
class Judgement:
    """What came of it. The value is a score, or a margin in the order of the case, whichever way it was shown."""

    ask: Ask
    value: float | None
    problem: Problem
    said: str  # or the error
    finish: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    ranking: str = ""  # of several answers: their letters in the case, from best to worst


@dataclass(frozen=True)
class Judge:
    """Who judges and how. With `expected` nothing is generated: verdicts are weighed by their probabilities."""

    responder: Responder
    format: Format
    sampling: Sampling = WORDS
    expected: bool = False

    def __post_init__(self) -> None:
        if self.expected and not isinstance(self.responder, Chat):
            raise ConfigError(
                "expected scores need the probabilities of a model here, not of one behind a URL"
            )

    def format_of(self, case: Case) -> Format:
        """The judge's own, or of a case that brings its prompt the one its verdict is written in."""
        found = recognise(case.verdict) if case.asked else None
        return self.format if found is None else found[0]

    def prompt(self, ask: Ask) -> Conversation:
        """DataError for a case that lacks what the format asks with."""
        return self.format_of(ask.case).ask(ask.case, swapped=ask.swapped)

    def judge(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Judgement]]:
        """(number, what came of it), as it becomes known. Asks with one picture should be neighbours."""
        if self.expected:
            for number, found in set_apart(asks, self._weigh):
                if isinstance(found, DataError):
                    found = Judgement(asks[number], None, "media", str(found))
                yield number, found
            return
        prompts = [self.prompt(ask) for ask in asks]
        for number, outcome in self.responder.outcomes(prompts, sampling=self.sampling):
            yield number, self._read(asks[number], outcome)

    def _read(self, ask: Ask, outcome: Answer | UserError) -> Judgement:
        if isinstance(outcome, UserError):
            return Judgement(ask, None, _problem(outcome), str(outcome))
        reading = self.format_of(ask.case).reading(strip_thinking(outcome.text), ask.case)
        ranking = reverse_letters(reading.ranking) if ask.swapped else reading.ranking
        return Judgement(
            ask, _in_order(reading.value, ask), reading.problem, outcome.text, outcome.finish,
            outcome.prompt_tokens or 0, outcome.answer_tokens or 0, ranking,
        )  # fmt: skip

    def _weigh(self, start: int, asks: Sequence[Ask]) -> list[Judgement]:
        assert isinstance(self.responder, Chat)
        asked = []
        for ask in asks:
            form = self.format_of(ask.case)
            asked.append((self.prompt(ask), form.lead, form.verdicts))
        return [
            Judgement(ask, _in_order(value, ask), "", "", "expected", tokens)
            for ask, (value, tokens) in zip(asks, expected_values(self.responder, asked), strict=True)
        ]


def _in_order(value: float | None, ask: Ask) -> float | None:
    return -value if value is not None and ask.swapped else value


def _problem(error: UserError) -> Problem:
    if isinstance(error, RemoteTimeout):
        return "timeout"
    return "media" if isinstance(error, DataError) else "http"


def prompt_digest(conversation: Conversation) -> str:
    """A name for what a judge was asked, pictures aside."""
    [message] = conversation.messages
    return words_digest(message.parts)


def label_of(case: Case) -> float | None:
    """What people said: a score or a margin; of a case that brings its prompt, what its verdict says."""
    if not case.asked:
        return case.label
    found = recognise(case.verdict)
    return None if found is None else found[1]
