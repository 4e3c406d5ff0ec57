"""What a chat model may propose: a few functions, calls read out of its words, as commands that wait for a yes.

A model speaks of places in fractions of the picture, [left, top, right, bottom] from 0 to 1, as LLaVA's data does
(arXiv 2310.03744); commands speak of pixels. Calls are written as Hermes and Qwen write them (`text/hermes.py`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from llavakit.core.config import Config
from llavakit.text.hermes import CLOSE, OPEN, tools_text

Size = tuple[int, int]
Box = tuple[float, float, float, float]
Share = Annotated[float, Field(ge=0, le=1)]
Signed = Annotated[float, Field(ge=-1, le=1)]
FRACTION = r"\s*(\d*\.\d+|[01])\s*"
BOX = re.compile(rf"\[{','.join([FRACTION] * 4)}\]")
CALL = re.compile(rf"{OPEN}(.*?)(?:{CLOSE}|$)", re.DOTALL)


class Proposed(Config):
    """Something done to a thing: one that words or a box name, or else what is selected."""

    object: Annotated[str, Field(max_length=200, description="words for the thing")] = ""
    box: Annotated[
        tuple[Share, Share, Share, Share] | None,
        Field(description="around the thing: left, top, right, bottom, fractions of the picture"),
    ] = None

    def select(self, size: Size) -> list[dict[str, Any]]:
        """The command that selects the thing, if it is named."""
        if self.box is not None:
            return [{"do": "select", "box": pixels(self.box, size)}]
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


def tools() -> list[dict[str, Any]]:
    """The functions as OpenAI describes them."""
    return [
        {
            "type": "function",
            "function": {"name": name, "description": _summary(kind), "parameters": _fields(kind)},
        }
        for name, kind in FUNCTIONS.items()
    ]


def instructions() -> str:
    """The system text that tells a model of the functions."""
    return tools_text(
        "You look at a picture together with a person, who may want it changed. Propose a change by calling "
        "functions; it is done when the person agrees.",
        tools(),
    )


def read(said: str, size: Size) -> Reading:
    """Take calls and boxes out of what a model said about a picture of `size` (width, height)."""
    commands: list[dict[str, Any]] = []
    troubles = []
    for call in CALL.findall(said):
        try:
            made = _commands(json.loads(call), size)
        except (ValueError, RecursionError):
            troubles.append(f"the model called a function in a way that cannot be read: {call.strip()[:200]}")
            continue
        commands += made
    text = CALL.sub("", said).strip()
    boxes = (tuple(map(float, found)) for found in BOX.findall(text))
    there = tuple(pixels(box, size) for box in boxes if box[0] < box[2] <= 1 and box[1] < box[3] <= 1)
    return Reading(text, there, tuple(commands), tuple(troubles))


def pixels(box: tuple[float, ...], size: Size) -> Box:
    """Fractions of a picture to pixels."""
    width, height = size
    left, top, right, bottom = box
    return (round(left * width), round(top * height), round(right * width), round(bottom * height))


def _commands(call: Any, size: Size) -> list[dict[str, Any]]:
    """ValueError (ValidationError is one) for what is no call."""
    if not isinstance(call, dict) or not isinstance(call.get("arguments", {}), Mapping):
        raise ValueError("no call")
    proposed = _ADAPTER.validate_python({**call.get("arguments", {}), "name": call.get("name")})
    action = proposed.act(size)
    return [*proposed.select(size), *([] if action is None else [action])]


def _summary(kind: type[Proposed]) -> str:
    return (kind.__doc__ or "").strip()


def _fields(kind: type[Proposed]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    properties = {name: what for name, what in schema["properties"].items() if name != "name"}
    return {"type": "object", "properties": properties, "required": schema.get("required", [])}
