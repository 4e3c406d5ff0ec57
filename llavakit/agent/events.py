"""What happens in a run, as lines of a file: who has them has the run, can show it, and can go on with it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llavakit.agent.budget import Budget
from llavakit.agent.policy import Verdict
from llavakit.core.errors import DataError
from llavakit.core.journal import read_journal
from llavakit.vision.boxes import Unit

MARK = re.compile(r"\s*\[call_\d+\]")
Names = dict[str, str]  # on the desk: short name -> id of the artifact


class Line(BaseModel):
    """A turn before the question; its pictures are shown with the question."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["user", "assistant"]
    text: str


class Event(BaseModel):
    """Base of all of them. `seconds` is what it took, waiting for people left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Begun(Event):
    """The question, with what lies on the desk for it. `card` digests say what the tools said of themselves."""

    kind: Literal["begun"] = "begun"
    question: str
    history: tuple[Line, ...] = ()  # what was said before
    names: Names
    shown: tuple[str, ...]  # pictures that the model sees with the question
    system: str | None
    form: str  # how calls are written (`forms.py`)
    unit: Unit  # what the numbers of the model's boxes count
    tools: dict[str, str]  # name -> digest of its card
    budget: Budget
    version: str


class Said(Event):
    """The model's text, word for word. The `last` one is the answer, whatever it says."""

    kind: Literal["said"] = "said"
    text: str
    finish: str
    last: bool
    seconds: Annotated[float, Field(ge=0)]


class CallMade(Event):
    """A call that was read out of what the model said. Arguments are JSON text, as it wrote them."""

    kind: Literal["call"] = "call"
    id: str
    name: str
    arguments: str
    server: str = ""


class Decided(Event):
    """What was decided about a call; for `modify`, with the arguments that replace the model's."""

    kind: Literal["decided"] = "decided"
    id: str
    do: Verdict
    why: str
    by: Literal["policy", "person", "kept", "loop"]
    arguments: dict[str, Any]


class Waiting(Event):
    """The run stands still until a person decides about a call."""

    kind: Literal["waiting"] = "waiting"
    id: str
    why: str


class Running(Event):
    """A call has been handed to its tool: if nothing follows, nobody knows whether it happened."""

    kind: Literal["running"] = "running"
    id: str


class Returned(Event):
    """What came of a call; `text` is what the model reads of it."""

    kind: Literal["returned"] = "returned"
    id: str
    value: dict[str, Any]
    pictures: tuple[str, ...]
    error: str | None
    text: str
    names: Names  # that are new on the desk
    seconds: Annotated[float, Field(ge=0)]


class Unread(Event):
    """Something that looks like a call and could not be read as one."""

    kind: Literal["unread"] = "unread"
    problem: str


class Forced(Event):
    """No tool is called any more: the model is asked for its answer."""

    kind: Literal["forced"] = "forced"
    why: str


class Sentence(BaseModel):
    """A sentence of the answer with the calls whose results it states; without any, `doubt` says what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    calls: tuple[str, ...] = ()
    doubt: str = ""


class Answered(Event):
    """The end: the answer, sentence by sentence, what it rests on, and what is missing in it."""

    kind: Literal["answered"] = "answered"
    sentences: tuple[Sentence, ...]
    used: tuple[str, ...]  # calls that gave a result
    stopped: str  # the bound that ended the run; empty: the model did
    missing: tuple[str, ...]

    @property
    def text(self) -> str:
        """For people: every sentence with its calls, and then what has to be known about the answer."""
        said = " ".join(map(_cited, self.sentences))
        return "\n".join([*([said] if said else []), *self.notes])

    @property
    def plain(self) -> str:
        """The model's words alone, without the ids of calls that it is asked to write behind them."""
        return MARK.sub("", " ".join(sentence.text for sentence in self.sentences)).strip()

    @property
    def notes(self) -> list[str]:
        """Lines about the answer that are not the model's."""
        lines = [] if self.used else ["[no tool was used]"]
        lines += [f"[stopped: {self.stopped}]"] if self.stopped else []
        return lines + ([f"[missing: {'; '.join(self.missing)}]"] if self.missing else [])


def _cited(sentence: Sentence) -> str:
    marks = "".join(f" [{name}]" for name in sentence.calls if f"[{name}]" not in sentence.text)
    return sentence.text + marks + (f" [{sentence.doubt}]" if sentence.doubt else "")


AnyEvent = Annotated[
    Begun | Said | CallMade | Decided | Waiting | Running | Returned | Unread | Forced | Answered,
    Field(discriminator="kind"),
]
_EVENTS: TypeAdapter[Any] = TypeAdapter(AnyEvent)


class Piece(BaseModel):
    """Some letters of what the model is saying; shown, not kept."""

    model_config = ConfigDict(frozen=True)
    text: str


def read_events(path: Path) -> list[Any]:
    """The events of a run's file. DataError for a line that is none."""
    return list(_parsed(read_journal(path), path))


def _parsed(rows: Sequence[dict[str, Any]], path: Path) -> Iterator[Any]:
    for number, row in enumerate(rows, 1):
        try:
            yield _EVENTS.validate_python(row)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"no event of a run: {where}: {first['msg']}", path=path, line=number) from None
