"""Lessons in calling tools that a model writes: from a picture, what is known of it, and the tools that are here.

As LLaVA-Plus made its data (arXiv 2311.05437), but with the tools run for real: the writer makes up a question that
takes a tool and the call, the tool runs, and the writer words the answer from what is known and the result. What is
known is the writer's alone. A talk that speaks of it or names the tool, whose tool fails, or whose answer does not
rest on the result is dropped, and counted under its reason. Some talks take no tool, in the same form: without them
a model calls tools for everything.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from pydantic import Field

from llavakit.agent.budget import Budget
from llavakit.agent.forms import Form, Heard
from llavakit.agent.lessons import Lesson, hold, record_of
from llavakit.agent.loop import Agent
from llavakit.agent.run import begin
from llavakit.core.errors import ConfigError
from llavakit.core.journal import open_journal
from llavakit.core.progress import bar
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.synth.facts import Facts
from llavakit.synth.filters import LEAK, REFUSAL
from llavakit.synth.items import Item, Known
from llavakit.synth.replies import QuestionAnswer, Reply, Said, Unread, read_reply, schema_of
from llavakit.text.calls import Call, Card
from llavakit.text.conversation import Conversation, Image, Video, user
from llavakit.tools.registry import Registry

LESSONS_FILE = "lessons.jsonl"
BUDGET = Budget(steps=2, tries=1)
TAUGHT = "Now I can answer."  # the thoughts of an answer with a result
SEEN = "I can see that without a tool."
WORD_IT = (
    "Answer the person in one or two sentences, from what the tool gave. What is known above only helps you to see "
    "that it is right: never mention it, nor any tool. Where the two disagree, say what the tool gave. "
    "As JSON: answer."
)
WITH_TOOL = (
    "Write what a person who sees the picture, and knows nothing else, may ask so that this tool is needed. Say in "
    "`thoughts` in a few words why, and give the tool's arguments. Do not name the tool in the question, do not "
    "speak of what is known, do not give the answer away. As JSON: question, thoughts, arguments."
)
PLAIN = (
    "Write what a person who sees the picture may ask, and an answer that whoever looks at it can give at once. Do "
    "not speak of what is known. As JSON: question, answer."
)
R = TypeVar("R", bound=Reply)


class Asked(Reply):
    """A question and the call that it takes."""

    question: Said
    thoughts: Said
    arguments: dict[str, Any] = Field(default_factory=dict)


class Worded(Reply):
    """The answer to a person."""

    answer: Said


class Writer(Responder):
    """Plays the model in a lesson: says the call, and then has the answer worded from the tool's result."""

    def __init__(
        self, writer: Responder, form: Form, known: Known, asked: Asked, call: Call, how: Sampling
    ) -> None:
        self._writer, self._form, self._known, self._asked, self._call = writer, form, known, asked, call
        self._how, self._called = how, False

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The call, and after it the answer."""
        if not self._called:
            self._called = True
            yield self._form.say(Heard("", self._asked.thoughts, (self._call,)))
            return
        told = f"{_told(self._known)}\nA person asked: {self._asked.question}\nA tool gave:\n"
        text = f"{told}{conversation.messages[-1].text}\n{WORD_IT}"
        said: Worded = _ask(self._writer, text, Worded, schema_of(Worded), self._how)
        yield self._form.say(Heard(said.answer, TAUGHT))

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """One after the other."""
        return [Answer("".join(self.stream(talk, sampling=sampling)), "stop") for talk in conversations]

    def num_tokens(self, answer: str) -> int | None:
        """Not known."""
        return None

    def describe(self, video: Video) -> str:
        """No lesson has videos."""
        return ""


class Dropped(Exception):
    """A talk that is no lesson; the text is the reason it is counted under."""


class Lessons:
    """Makes lessons, one for each (picture, number); counts what it drops by reason."""

    def __init__(
        self, writer: Responder, registry: Registry, form: Form, out: Path, *, plain: float, how: Sampling
    ) -> None:
        """`plain` is the share of talks that take no tool."""
        if not registry.tools:
            raise ConfigError("lessons in calling tools need a tool")
        self._writer, self._registry, self._form, self._out = writer, registry, form, out
        self._plain, self._how = plain, how
        self.dropped: Counter[str] = Counter()

    def make(self, item: Item, known: Known, number: int) -> dict[str, Any] | None:
        """A record for a data file in `out`; None where it was dropped. The same again for the same numbers."""
        dice = Random(f"{self._how.seed} {item.id} {number}")
        folder = self._out / f"{number}"
        pictures = [medium.source for medium in item.media if isinstance(medium, Image)]
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed in it
        try:
            if not pictures or not (known.captions or known.boxes or known.text):
                raise Dropped("nothing is known")
            if dice.random() < self._plain:
                return self._seen(item, known, pictures, folder)
            return self._called(item, known, dice.choice(self._registry.cards), pictures, folder)
        except Unread:
            self.dropped["unread"] += 1
        except Dropped as reason:
            self.dropped[str(reason)] += 1
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def _seen(self, item: Item, known: Known, pictures: list[Any], folder: Path) -> dict[str, Any]:
        text = f"{_told(known)}\n{PLAIN}"
        said: QuestionAnswer = _ask(self._writer, text, QuestionAnswer, schema_of(QuestionAnswer), self._how)
        _check(said.question, said.answer, self._registry.tools)
        lesson = Lesson(folder.name, said.question, tuple(pictures), said.answer, concluded=SEEN)
        record = hold(lesson, self._registry, self._form, folder, BUDGET)
        assert record is not None  # without a call nothing can fail
        return record

    def _called(
        self, item: Item, known: Known, card: Card, pictures: list[Any], folder: Path
    ) -> dict[str, Any]:
        shown = json.dumps({"name": card.name, "description": card.description}, ensure_ascii=False)
        text = f"{_told(known)}\nA tool: {shown}\n{WITH_TOOL}"
        asked: Asked = _ask(self._writer, text, Asked, _schema_for(card), self._how)
        call = Call(card.name, json.dumps(asked.arguments))
        agent = Agent(
            Writer(self._writer, self._form, known, asked, call, self._how), self._registry, self._form
        )
        with begin(folder, asked.question, pictures=pictures, form=self._form.name, budget=BUDGET) as run:
            for _ in agent.go(run):
                pass
            answered, (_, back) = run.state.answered, run.state.calls()[0]
            assert answered is not None and back is not None
            if back.error is not None:
                raise Dropped("the tool failed")
            _check(asked.question, answered.plain, self._registry.tools)
            if not back.pictures and not any(sentence.calls for sentence in answered.sentences):
                raise Dropped("the answer does not rest on the result")
            return record_of(run, agent, folder.name, self._out)


def write_lessons(
    lessons: Lessons, items: Sequence[Item], facts: Facts, path: Path, *, each: int
) -> tuple[int, int]:
    """`each` lessons of every item into a file of JSON lines, which goes on where it ended: (kept, made now)."""
    with open_journal(path) as (rows, journal), bar("lessons", len(items) * each) as progress:
        done = {row["unique_id"] for row in rows}
        begun = len(done)
        for place, item in enumerate(items):
            for number in range(place * each, (place + 1) * each):
                if str(number) not in done:
                    record = lessons.make(item, facts.of(item), number)
                    if record is not None:
                        journal.add([record])
                        done.add(record["unique_id"])
                progress.advance()
    return len(done), len(done) - begun


def _told(known: Known) -> str:
    """What is known, for the writer alone."""
    lines = [f"- {caption}" for caption in known.captions]
    lines += [f"- {box.label} at {[round(number, 2) for number in box.corners]}" for box in known.boxes]
    lines += [f"- written in it: {known.text}"] if known.text else []
    return "What is known of a picture:\n" + "\n".join(lines)


def _check(question: str, answer: str, tools: Iterable[str]) -> None:
    """Drop what gives its sources away."""
    both = f"{question}\n{answer}"
    if LEAK.search(both):
        raise Dropped("speaks of what was known")
    if REFUSAL.search(answer):
        raise Dropped("refuses")
    names = "|".join(re.escape(name) for name in tools)
    if re.search(rf"\b(?:{names}|tools?)\b", both, re.IGNORECASE):
        raise Dropped("names a tool")
    if answer.strip().rstrip(".").lower() in question.lower():
        raise Dropped("the question gives the answer away")


def _schema_for(card: Card) -> str:
    """A question, thoughts, and arguments as the tool takes them."""
    text = {"type": "string", "minLength": 1}
    parts = {"question": text, "thoughts": text, "arguments": dict(card.parameters)}
    return json.dumps(
        {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    )


def _ask(writer: Responder, text: str, kind: type[R], schema: str, how: Sampling) -> R:
    """What the writer says in a shape. Unread where it does not."""
    held = how.model_copy(update={"json_schema": schema})
    return read_reply(writer.answers([Conversation((user(text),))], sampling=held)[0].text, kind)[0]
