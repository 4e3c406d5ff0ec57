"""What writers must say: the shapes of their JSON, and reading it, mended where that is possible.

Our engine and many servers hold an answer to its shape. Others wrap it in words, forget quotation marks or
brackets: `json-repair` mends that, and it is counted. What then lacks a field is not read.
"""

import json
import re
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llavakit.core.errors import ConfigError

Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)
R = TypeVar("R", bound="Reply")


class Reply(BaseModel):
    """Base of what a writer says. Fields that were not asked for are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class QuestionAnswer(Reply):
    question: Said
    answer: Said


class Turns(Reply):
    turns: Annotated[tuple[QuestionAnswer, ...], Field(min_length=1, max_length=20)]


class Description(Reply):
    description: Said


class Comparison(Reply):
    comparison: Said


class Document(Reply):
    text: Said
    questions: Annotated[tuple[QuestionAnswer, ...], Field(min_length=1, max_length=20)]


class OpenQuestion(Reply):
    kind: Said
    question: Said
    answer: Said


class ChoiceQuestion(Reply):
    kind: Said
    question: Said
    options: Annotated[tuple[Said, ...], Field(min_length=4, max_length=4)]
    right: Literal["A", "B", "C", "D"]


class VideoQuestions(Reply):
    open: Annotated[tuple[OpenQuestion, ...], Field(min_length=1, max_length=20)]
    choice: ChoiceQuestion


class Rating(Reply):
    explanation: Said
    score: Annotated[int, Field(ge=1, le=5)]


class Unread(Exception):
    """An answer that is not of its shape; the text says why."""


def schema_of(kind: type[Reply]) -> str:
    """The shape as JSON schema: every field is required, no other is allowed, as OpenAI wants it."""
    return json.dumps(_closed(kind.model_json_schema()))


def _closed(schema: object) -> object:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items() if name not in ("title", "description")}
    if "properties" in schema:  # whose names may be those of what is left out elsewhere
        found["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        found |= {"additionalProperties": False, "required": list(schema["properties"])}
    return found


def read_reply(text: str, kind: type[R]) -> tuple[R, bool]:
    """(what was said, whether it had to be mended). Unread for what is not of the shape even then."""
    try:
        return kind.model_validate_json(text), False
    except ValidationError:
        pass
    fenced = FENCE.match(text.strip())
    try:
        return kind.model_validate(_mended(fenced[1] if fenced else text)), True
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Unread(f"{where}: {first['msg']}") from None


def _mended(text: str) -> object:
    try:
        import json_repair
    except ImportError:
        raise ConfigError("an answer is broken JSON; to mend such, pip install 'llavakit[synth]'") from None
    return json_repair.loads(text)
