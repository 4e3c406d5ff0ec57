"""An agent with the face of a model: a conversation in, the words of a run's answer out.

So whatever asks a model (a benchmark, a judge, a server) can ask one with tools, and the same one without.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llavakit.agent.events import Answered, Line
from llavakit.agent.forms import FORMS
from llavakit.agent.loop import Agent
from llavakit.agent.opening import AgentConfig, caller, can_hold, shown_as
from llavakit.agent.policy import Decision
from llavakit.agent.run import Run, begin
from llavakit.core.errors import DataError
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Video
from llavakit.tools.registry import Registry
from llavakit.vision.image import Source, redraw


@contextmanager
def begin_talk(
    agent: Agent, talk: Conversation, config: AgentConfig, *, redraw: Callable[[Source], bytes] = redraw
) -> Iterator[Run]:
    """A run about a conversation: its last question, with what was said before as history.

    All pictures are shown with the last question. The folder is a new one in `config.runs`; without that it is
    removed in the end. `redraw` is that of its pictures (`Artifacts`).
    """
    question, history = question_of(talk)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=config.runs))
    try:
        with begin(
            folder, question, pictures=[image.source for image in talk.images], history=history,
            system=system_of(talk), form=config.form,
            cards=agent.registry.cards_for(config.boxes), budget=config.budget, unit=config.boxes, redraw=redraw,
        ) as run:  # fmt: skip
            yield run
    finally:
        if config.runs is None:
            shutil.rmtree(folder, ignore_errors=True)


def question_of(talk: Conversation) -> tuple[str, Sequence[Line]]:
    """The last question of a conversation, and what was said before it."""
    *before, asked = [message for message in talk.messages if message.role != "system"]
    return asked.text.strip(), [Line(role=one.role, text=one.text) for one in before if one.role != "system"]


def system_of(talk: Conversation) -> str | None:
    """Its own system text."""
    return next((one.text for one in talk.messages if one.role == "system"), None)


def nobody(*_: object) -> Decision:
    """Who is asked where no person is."""
    return Decision("reject", "nobody is there to allow it")


class AgentResponder(Responder):
    """Asks a model with tools. Answers are the model's words alone: marks and notes are for people."""

    def __init__(self, responder: Responder, registry: Registry, config: AgentConfig) -> None:
        self._responder, self._registry, self._config = responder, registry, config
        self._rules, (_, self._system) = config.rules(), shown_as(responder)

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The whole answer, when the run has it."""
        yield self._run(conversation, sampling).plain

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """One run after the other. Number i draws with seed + i; what a bound ended has finish `length`."""
        found = []
        for index, talk in enumerate(conversations):
            own = sampling.model_copy(update={"seed": sampling.seed + index})
            answered = self._run(talk, own)
            found.append(Answer(answered.plain, "length" if answered.stopped else "stop"))
        return found

    def num_tokens(self, answer: str) -> int | None:
        """Tokens of an answer; None if that is not known."""
        return self._responder.num_tokens(answer)

    def describe(self, video: Video) -> str:
        """A run takes no videos."""
        raise DataError("tools are for pictures: an agent takes no videos")

    def _run(self, talk: Conversation, sampling: Sampling) -> Answered:
        cards = self._registry.cards_for(self._config.boxes)
        agent = Agent(
            caller(self._responder, self._config.form, cards), self._registry, FORMS[self._config.form],
            policy=self._rules, ask=nobody, sampling=sampling, own_system=self._system,
            holds_calls=can_hold(self._responder),
        )  # fmt: skip
        with begin_talk(agent, talk, self._config) as run:
            for _ in agent.go(run):
                pass
            assert run.state.answered is not None  # nobody is waited for
            return run.state.answered
