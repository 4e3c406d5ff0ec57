"""A model that says what it was told to, and tools for tests: what they did is on record."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llavakit.agent.budget import Budget
from llavakit.agent.events import Answered, Piece
from llavakit.agent.forms import Hermes
from llavakit.agent.loop import Agent
from llavakit.agent.run import begin
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.text.calls import Card
from llavakit.text.conversation import Conversation
from llavakit.tools.registry import Made, Registry
from tests import tiny


class Scripted(Responder):
    """Says its lines in turn, the last one for ever. A line may be a function of the conversation."""

    def __init__(self, *lines: str | Callable[[Conversation], str]):
        self.lines, self.heard, self.how = list(lines), [], []

    def stream(self, conversation, *, sampling=GREEDY) -> Iterator[str]:
        self.heard.append(conversation)
        self.how.append(sampling)
        line = self.lines[min(len(self.heard), len(self.lines)) - 1]
        text = line if isinstance(line, str) else line(conversation)
        yield from (text[at : at + 7] for at in range(0, len(text), 7))

    def answers(self, conversations, *, sampling=GREEDY) -> list[Answer]:
        return [
            Answer("".join(self.stream(talk, sampling=sampling)).strip(), "stop") for talk in conversations
        ]

    def num_tokens(self, answer):
        return None

    def describe(self, video):
        return ""


@dataclass
class Fake:
    """A tool that gives `gives(arguments, desk)`; what it was asked is in `asked`."""

    name: str
    gives: Any = field(default_factory=dict)
    read_only: bool = True
    server: str = ""
    seconds: float = 10.0
    description: str = "A tool."
    asked: list = field(default_factory=list)

    @property
    def card(self) -> Card:
        return Card(
            self.name, self.description, read_only=self.read_only, server=self.server, seconds=self.seconds
        )

    def run(self, arguments, desk, *, seconds):
        self.asked.append(arguments)
        made = self.gives(arguments, desk) if callable(self.gives) else self.gives
        return made if isinstance(made, Made) else Made(made)

    def close(self):
        pass


def call(name: str, **arguments: Any) -> str:
    """A call in the words of Hermes."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def picture(folder: Path) -> Path:
    return tiny.picture(folder / "x.png")


def run_agent(
    folder: Path, model: Responder, tools: Sequence[Fake] = (), question: str = "How many shapes?", **settings
) -> tuple[Answered | None, list[Any]]:
    """The answer and all events of a run in folder/run."""
    budget = Budget(**settings.pop("budget", {}))
    pictures = settings.pop("pictures", [picture(folder)])
    agent = Agent(model, Registry(tools), settings.pop("form", None) or Hermes(), **settings)
    with begin(folder / "run", question, pictures=pictures, form=agent.form.name, budget=budget) as run:
        events = [event for event in agent.go(run) if not isinstance(event, Piece)]
        return run.state.answered, events


def kinds(events: Sequence[Any]) -> str:
    return " ".join(event.kind for event in events)


def hang(seconds: float = 60.0) -> Callable[..., dict]:
    """A tool's `gives` that does not come back in time."""

    def gives(arguments, desk):
        time.sleep(seconds)
        return {}

    return gives
