"""Lessons in calling tools: runs in which somebody who knows says what to call, and what they leave for training.

The tools run for real, so a lesson shows the very results that the model will meet; a lesson whose tool fails, or
whose answer does not rest on what came back, is none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.agent.budget import Budget
from llavakit.agent.forms import Form, Heard
from llavakit.agent.loop import Agent
from llavakit.agent.run import Run, begin
from llavakit.data.dialects.llava import write_llava
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.calls import Call, Card, Json, ToolError
from llavakit.text.conversation import Conversation, Video
from llavakit.text.llava_plus import action_of, read_answer
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made, Registry


class Recital(Responder):
    """Says given lines one after the other, whatever it hears."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = iter(lines)

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        yield next(self._lines, "")

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        return [Answer(next(self._lines, ""), "stop") for _ in conversations]

    def num_tokens(self, answer: str) -> int | None:
        return None

    def describe(self, video: Video) -> str:
        return ""


@dataclass(frozen=True)
class Lesson:
    """A question with the call that it takes (None: it takes none) and the answer that is right."""

    id: str
    question: str
    pictures: tuple[Path, ...]
    answer: str
    call: Call | None = None
    thoughts: str = ""  # before the call
    concluded: str = ""  # before the answer
    boxes: tuple[str, ...] = ()  # marked on the first picture, in pixels
    fails: bool = False  # the lesson is what to say when the call gives an error


def hold(
    lesson: Lesson, registry: Registry, form: Form, folder: Path, budget: Budget
) -> dict[str, Any] | None:
    """The run of a lesson in `folder`, as a record for a data file beside it.

    None where its call did not go as it says, or its answer rests on nothing that came back.
    """
    calls = () if lesson.call is None else (lesson.call,)
    turns = [Heard("", lesson.thoughts, calls)] if calls else []
    turns.append(Heard(lesson.answer, lesson.concluded))
    agent = Agent(Recital([form.say(turn) for turn in turns]), registry, form)
    with begin(
        folder, lesson.question, pictures=lesson.pictures, boxes=lesson.boxes, form=form.name, budget=budget
    ) as run:
        for _ in agent.go(run):
            pass
        answered = run.state.answered
        assert answered is not None
        results = [back for _, back in run.state.calls() if back is not None]
        failed = any(back.error is not None for back in results)
        seen = any(back.pictures for back in results)
        rests = not calls or failed or seen or any(sentence.calls for sentence in answered.sentences)
        return record_of(run, agent, lesson.id, folder.parent) if rests and failed == lesson.fails else None


@dataclass(frozen=True)
class SwitchedOff:
    """A tool in whose place is an error."""

    card: Card

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Refuse."""
        raise ToolError("switched off")

    def close(self) -> None:
        """Nothing is held."""


def switch_off(registry: Registry) -> Registry:
    """The same tools, none of which gives anything."""
    return Registry(SwitchedOff(tool.card) for tool in registry.tools.values())


def record_of(run: Run, agent: Agent, name: str, folder: Path) -> dict[str, Any]:
    """A finished run as a record of a data file in `folder`: LLaVA-Plus' where its form is that, else LLaVA's."""
    row = write_llava(agent.tell(run), folder)
    if agent.form.name == "llava_plus":
        row["conversations"] = [_parted(turn) for turn in row["conversations"]]
    return {"unique_id": name, **row}


def _parted(turn: dict[str, Any]) -> dict[str, Any]:
    """An answer with its three parts under their own names, as LLaVA-Plus publishes them."""
    said = read_answer(turn["value"])
    if turn["from"] != "gpt" or said.problem is not None:
        return turn
    actions = [action_of(call) for call in said.calls]
    return {"from": "gpt", "thoughts": said.thoughts, "actions": actions, "value": said.value}
