"""Tools of ours under the names, arguments and results that other models learned.

`image_zoom_in_tool` is what models that "think with images" call (DeepEyes and those after it). The others are
LLaVA-Plus' (arXiv 2311.05437), whose boxes are parts of the picture with two decimals; a model of it knows its
tools by heart and is told of none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llavakit.text.calls import Card, Json, ToolError
from llavakit.tools.arguments import UNIT
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made, Tool

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}


@dataclass(frozen=True)
class Alias:
    """Another name for the tool `target`: what its arguments become, and what is told of its value."""

    name: str
    target: str
    description: str
    properties: Json
    required: tuple[str, ...]
    arguments: Callable[[Json, Desk], Json]
    value: Callable[[Json], Json]


class AliasTool:
    """An alias that runs."""

    def __init__(self, alias: Alias, tool: Tool) -> None:
        self._alias, self._tool = alias, tool
        own = tool.card
        schema = {"type": "object", "properties": alias.properties, "required": list(alias.required)}
        self.card = Card(
            alias.name, alias.description, schema, cost=own.cost, seconds=own.seconds, weights=own.weights
        )

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """The call of the tool behind it. ToolError for arguments that do not fit."""
        missing = [name for name in self._alias.required if name not in arguments]
        unknown = [name for name in arguments if name not in self._alias.properties]
        if missing or unknown:
            there = ", ".join(self._alias.properties) or "none"
            what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
            raise ToolError(f"{what}; arguments: {there}")
        made = self._tool.run(self._alias.arguments(arguments, desk), desk, seconds=seconds)
        return Made(self._alias.value(made.value), made.pictures)

    def close(self) -> None:
        """Close the tool behind it."""
        self._tool.close()


def _zoomed(arguments: Json, desk: Desk) -> Json:
    names, index = desk.pictures(), arguments.get("img_idx", 0)
    if not isinstance(index, int) or not 0 <= index < len(names):
        raise ToolError(f"img_idx {index}: there are {len(names)} pictures, counted from 0")
    return {"image": names[index], "box": arguments["bbox_2d"]}


def _nothing(arguments: Json, desk: Desk) -> Json:
    return {}


def _caption(arguments: Json, desk: Desk) -> Json:
    words = [word.strip() for word in str(arguments["caption"]).split(".")]
    return {"words": [word for word in words if word]}


def _same(value: Json) -> Json:
    return value


def _texts(value: Json) -> Json:
    return {"texts": [line["text"] for line in value["lines"]]}


def _read(value: Json) -> Json:
    lines = value["lines"]
    return _texts(value) | {
        "boxes": _boxes(lines),
        "scores": [round(line["confidence"], 2) for line in lines],
    }


def _grounded(value: Json) -> Json:
    found = value["found"]
    scores = [round(one["confidence"], 2) for one in found]
    return {"boxes": _boxes(found), "logits": scores, "phrases": [one["label"] for one in found]}


def _boxes(found: list[dict[str, Any]]) -> list[list[float]]:
    return [[round(number, 2) for number in one["box"]] for one in found]


_CAPTION = {"caption": {"type": "string", "description": "What to find, with dots between: cat . dog"}}
ALIASES = {
    alias.name: alias
    for alias in (
        Alias(
            "image_zoom_in_tool", "zoom",
            "Zoom in on a region of an image, given its box and the label of what is there.",
            {
                "bbox_2d": NUMBERS | {"description": f"Box: left, top, right, bottom {UNIT}."},
                "label": {"type": "string", "description": "What is in the box."},
                "img_idx": {"type": "integer", "description": "Which image, counted from 0."},
            },
            ("bbox_2d",), _zoomed, _same,
        ),
        Alias("easyocr", "ocr", "Read the text in the picture.", {}, (), _nothing, _texts),
        Alias("ocr+boxes", "ocr", "Read the text in the picture, with boxes.", {}, (), _nothing, _read),
        Alias(
            "grounding_dino", "ground", "Find things in the picture by words.", _CAPTION, ("caption",),
            _caption, _grounded,
        ),
    )
}  # fmt: skip
