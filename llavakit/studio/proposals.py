"""What a chat model may propose: a few functions, calls read out of its words, as commands that wait for a yes.

A model speaks of places in a unit of its family: LLaVA's data (arXiv 2310.03744) in fractions of the picture
without its padding, others in thousandths, or in pixels of what they see; commands speak of pixels of the canvas.
Calls are written as Hermes and Qwen write them (`text/hermes.py`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from llavakit.core.config import Config
from llavakit.core.errors import DataError
from llavakit.text.hermes import CLOSE, OPEN, tools_text
from llavakit.vision.boxes import UNIT_WORDS, Frame, Unit, make_box

Size = tuple[int, int]
Box = tuple[float, float, float, float]
Corner = Annotated[float, Field(ge=-1e6, le=1e6)]
Signed = Annotated[float, Field(ge=-1, le=1)]
FRACTION, NUMBER = r"\s*(\d*\.\d+|[01])\s*", r"\s*(\d{1,6}(?:\.\d+)?)\s*"
BOX_OF_FRACTIONS, BOX = (re.compile(rf"\[{','.join([each] * 4)}\]") for each in (FRACTION, NUMBER))
OUTSIDE = 0.02  # of a side: so far out of the picture a box of a model may reach
CALL = re.compile(rf"{OPEN}(.*?)(?:{CLOSE}|$)", re.DOTALL)


@dataclass(frozen=True)
class Sight:
    """How a model sees a canvas of `size`: what its boxes count, and the picture that it was shown."""

    size: Size
    unit: Unit = "0-1"
    shown: Frame | None = None  # None: the canvas as it is

    def pixels(self, numbers: Sequence[float]) -> Box:
        """A box as the model writes it, in pixels of the canvas. DataError for one that is outside or empty."""
        said = make_box("the picture", self.unit, numbers)
        left, top, right, bottom = corners = said.to("0-1", self.shown or Frame(self.size)).corners
        # What lies in the padding that a model sees is no mistake; a number beyond its unit is.
        far = self.unit != "input" and (min(corners) < -OUTSIDE or max(corners) > 1 + OUTSIDE)
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
        if far or left >= right or top >= bottom:
            raise DataError(f"the box {list(numbers)} is not one {UNIT_WORDS[self.unit]}")
        width, height = self.size
        return (round(left * width), round(top * height), round(right * width), round(bottom * height))


class Proposed(Config):
    """Something done to a thing: one that words or a box name, or else what is selected."""

    object: Annotated[str, Field(max_length=200, description="words for the thing")] = ""
    box: tuple[Corner, Corner, Corner, Corner] | None = None

    def select(self, sight: Sight) -> list[dict[str, Any]]:
        """The command that selects the thing, if it is named."""
        if self.box is not None:
            return [{"do": "select", "box": sight.pixels(self.box)}]
        return [{"do": "select", "text": self.object}] if self.object else []

    def act(self, size: Size) -> dict[str, Any] | None:
        """The command on what is selected; None where selecting it is all."""
        return None


class Point(Proposed):
    """Select a thing, so that the person sees it."""

    name: Literal["select"] = "select"


class Remove(Proposed):
    """Take a thing away; what was behind it is filled in."""

    name: Literal["remove"] = "remove"

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "remove"}


class Move(Proposed):
    """Move a thing."""

    name: Literal["move"] = "move"
    dx: Annotated[Signed, Field(description="to the right, a fraction of the width")] = 0.0
    dy: Annotated[Signed, Field(description="down, a fraction of the height")] = 0.0

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "move", "dx": round(self.dx * size[0]), "dy": round(self.dy * size[1])}


class Resize(Proposed):
    """Make a thing larger or smaller."""

    name: Literal["resize"] = "resize"
    factor: Annotated[float, Field(ge=0.05, le=20)]

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "resize", "factor": self.factor}


class Rotate(Proposed):
    """Turn a thing clockwise."""

    name: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(ge=-360, le=360)]

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "rotate", "degrees": self.degrees}


class Replace(Proposed):
    """Put something else in the place of a thing."""

    name: Literal["replace"] = "replace"
    prompt: Annotated[str, Field(min_length=1, max_length=1000)]

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "replace", "prompt": self.prompt}


class Edit(Proposed):
    """Change the whole picture, or a thing in it, as an instruction says."""

    name: Literal["edit"] = "edit"
    prompt: Annotated[str, Field(min_length=1, max_length=1000)]

    def act(self, size: Size) -> dict[str, Any]:
        return {"do": "edit", "prompt": self.prompt}


AnyProposed = Point | Remove | Move | Resize | Rotate | Replace | Edit
FUNCTIONS: dict[str, type[Proposed]] = {
    kind.model_fields["name"].default: kind for kind in (Point, Remove, Move, Resize, Rotate, Replace, Edit)
}
_ADAPTER: TypeAdapter[AnyProposed] = TypeAdapter(Annotated[AnyProposed, Field(discriminator="name")])


@dataclass(frozen=True)
class Reading:
    """What a model said: its words, where it points (pixels), the commands it proposes, bad calls."""

    text: str
    boxes: tuple[Box, ...] = ()
    commands: tuple[dict[str, Any], ...] = ()
    troubles: tuple[str, ...] = ()


def tools(unit: Unit = "0-1") -> list[dict[str, Any]]:
    """The functions as OpenAI describes them, for a model that writes boxes in this unit."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": summary_of(kind),
                "parameters": schema_of(kind, UNIT_WORDS[unit]),
            },
        }
        for name, kind in FUNCTIONS.items()
    ]


def instructions(unit: Unit = "0-1") -> str:
    """The system text that tells a model of the functions."""
    return tools_text(
        "You look at a picture together with a person, who may want it changed. Propose a change by calling "
        "functions; it is done when the person agrees.",
        tools(unit),
    )


def read(said: str, sight: Sight) -> Reading:
    """Take calls and boxes out of what a model said about a picture."""
    commands: list[dict[str, Any]] = []
    troubles = []
    for call in CALL.findall(said):
        try:
            made = _commands(json.loads(call), sight)
        except DataError as error:
            troubles.append(f"the model called a function that makes no sense here: {error}")
            continue
        except (ValueError, RecursionError):
            troubles.append(f"the model called a function in a way that cannot be read: {call.strip()[:200]}")
            continue
        commands += made
    text = CALL.sub("", said).strip()
    return Reading(text, tuple(_places(text, sight)), tuple(commands), tuple(troubles))


def _places(text: str, sight: Sight) -> Iterator[Box]:
    """Where the words point; numbers that are no box are just numbers."""
    for found in (BOX_OF_FRACTIONS if sight.unit == "0-1" else BOX).findall(text):
        left, top, right, bottom = map(float, found)
        if left < right and top < bottom:
            with suppress(DataError):
                yield sight.pixels((left, top, right, bottom))


def _commands(call: Any, sight: Sight) -> list[dict[str, Any]]:
    """ValueError (ValidationError is one) for what is no call."""
    if not isinstance(call, dict) or not isinstance(call.get("arguments", {}), Mapping):
        raise ValueError("no call")
    return commands_of(
        _ADAPTER.validate_python({**call.get("arguments", {}), "name": call.get("name")}), sight
    )


def commands_of(proposed: Proposed, sight: Sight) -> list[dict[str, Any]]:
    """The commands that a function comes to. DataError for a box that is none."""
    action = proposed.act(sight.size)
    return [*proposed.select(sight), *([] if action is None else [action])]


def summary_of(kind: type[Proposed]) -> str:
    """What a function does, in a line."""
    return (kind.__doc__ or "").strip()


def schema_of(kind: type[Proposed], unit: str) -> dict[str, Any]:
    """The JSON schema of its arguments; `unit` says what the numbers of a box count."""
    schema = kind.model_json_schema()
    properties = {name: what for name, what in schema["properties"].items() if name != "name"}
    properties["box"]["description"] = f"around the thing: left, top, right, bottom, {unit}"
    return {"type": "object", "properties": properties, "required": schema.get("required", [])}
