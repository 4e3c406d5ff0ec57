"""What the functions of tools take and give: plain JSON, and pictures, regions, points and masks in pixels.

A function says with these types what it needs; the JSON schema of its tool, the checks and the way from a model's
numbers to pixels follow from them.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from llavakit.text.calls import Json

UNIT = "{unit}"  # stands in descriptions where the words for the unit of a conversation's boxes go
MOST_BOXES = 500


@dataclass(frozen=True)
class Picture:
    """A picture on the desk: uint8[h, w, 3], RGB."""

    name: str
    pixels_HW3: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels_HW3.shape[1], self.pixels_HW3.shape[0]


class Original(Picture):
    """The picture that the named one was cut from, at the first; regions that come with it are regions of it."""


class Region(NamedTuple):
    """Whole pixels of the call's picture; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int


class Point(NamedTuple):
    """A place on the call's picture, in pixels."""

    x: float
    y: float


@dataclass(frozen=True)
class Mask:
    """bool[h, w], as large as the call's picture."""

    inside_HW: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """A new picture, uint8[h, w, 3]. One that was cut from the call's picture says where, and how it was scaled."""

    pixels_HW3: np.ndarray
    corner: tuple[float, float] | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Answer:
    """What a function gives. Regions and points in `value` are told in the unit of the conversation."""

    value: Json = field(default_factory=dict)
    pictures: tuple[Drawn, ...] = ()


Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Numbers4 = Annotated[list[Number], Field(min_length=4, max_length=4)]
Numbers2 = Annotated[list[Number], Field(min_length=2, max_length=2)]
Name = Annotated[str, Field(max_length=64)]
PICTURE_WORDS = "Name of the picture, such as img_1; without it, the first one."
MASK_WORDS = "Name of a mask that another tool made, such as txt_1."
BY_ID = {PICTURE_WORDS: "Id of the picture.", MASK_WORDS: "Id of a mask that another tool made."}


class Kind(NamedTuple):
    """How one of our types is called between the processes, how JSON writes it, and what a schema says of it."""

    name: str
    written: Any
    words: str


KINDS: dict[Any, Kind] = {
    Picture: Kind("picture", Name, PICTURE_WORDS),
    Original: Kind("original", Name, PICTURE_WORDS),
    Region: Kind("region", Numbers4, f"Box: left, top, right, bottom {UNIT}."),
    tuple[Region, ...]: Kind(
        "regions",
        Annotated[list[Numbers4], Field(max_length=MOST_BOXES)],
        f"Boxes: left, top, right, bottom {UNIT}.",
    ),
    Point: Kind("point", Numbers2, f"Point: x, y {UNIT}."),
    tuple[Point, ...]: Kind(
        "points", Annotated[list[Numbers2], Field(max_length=MOST_BOXES)], f"Points: x, y {UNIT}."
    ),
    Mask: Kind("mask", Name, MASK_WORDS),
}
PICTURES = ("picture", "original")


class Arguments(BaseModel):
    """Base of the models that check arguments."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


def kinds_of(function: Callable[..., Answer]) -> dict[str, str]:
    """The kind of every parameter of a caller; `plain` where it is JSON as it is."""
    hints, found = get_type_hints(function), {}
    for name in asked_for(function):
        kind = KINDS.get(_ours(hints[name]))
        found[name] = "plain" if kind is None else kind.name
    return found


def asked_for(function: Callable[..., Answer]) -> dict[str, inspect.Parameter]:
    """The parameters that a caller gives. Those behind the star are what the tool was opened with."""
    given = inspect.signature(function).parameters
    return {name: one for name, one in given.items() if one.kind is not inspect.Parameter.KEYWORD_ONLY}


def _ours(hint: Any) -> Any:
    """One of our types, also behind `| None`; else the type that it is."""
    return next((one for one in (hint, *get_args(hint)) if one in KINDS), hint)


def arguments_model(function: Callable[..., Answer]) -> type[Arguments]:
    """What checks the JSON arguments of a function, made from its signature."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in asked_for(function).items():
        hint, default = hints[name], parameter.default
        said = hint.__metadata__ if get_origin(hint) is Annotated else ()
        kind = _ours(get_args(hint)[0] if said else hint)
        if kind in KINDS:
            kind_name, written, words = KINDS[kind]
            words = next((one for one in said if isinstance(one, str)), words)
            optional = kind_name in PICTURES or default is not inspect.Parameter.empty
            hint = Annotated[written | None if optional else written, Field(description=words)]
            default = None if optional else ...
        elif default is inspect.Parameter.empty:
            default = ...
        fields[name] = (hint, default)
    return create_model(function.__name__, __base__=Arguments, **fields)


def schema_of(model: type[BaseModel]) -> Json:
    """Its JSON schema, without what says nothing to a model: titles, and null for what may be left out."""
    schema = _plain(model.model_json_schema())
    assert isinstance(schema, dict)
    return schema


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    branches = [one for one in node.get("anyOf", ()) if one != {"type": "null"}]
    if len(branches) == 1 and len(node["anyOf"]) == 2:
        node = {name: value for name, value in node.items() if name not in ("anyOf", "default")} | branches[0]
    said = {name: value for name, value in node.items() if name != "title" or not isinstance(value, str)}
    return {name: _plain(value) for name, value in said.items()}


def told(schema: Mapping[str, Any], unit: str, *, by_id: bool) -> Json:
    """A schema with the words for a unit in their place, and for callers that name everything by ids."""
    found = _with_words(schema, {UNIT: unit} | (BY_ID if by_id else {}))
    assert isinstance(found, dict)
    if by_id:
        named = [
            name
            for name, one in found["properties"].items()
            if one.get("description") == BY_ID[PICTURE_WORDS]
        ]
        if named:
            found["required"] = [*named, *found.get("required", ())]
    return found


def _with_words(node: Any, words: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        for old, new in words.items():
            node = node.replace(old, new)
        return node
    if isinstance(node, Mapping):
        return {name: _with_words(value, words) for name, value in node.items()}
    return [_with_words(item, words) for item in node] if isinstance(node, list) else node
