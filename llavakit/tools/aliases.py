"""Tools of ours under the names, arguments and results that other models learned.

An alias is a function over tools of ours: it calls one or several of them and tells what came of it in words that
the model knows. LLaVA-Plus' are in plus_aliases.py.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llavakit.text.calls import Card, Json, ToolError, ToolUnavailable
from llavakit.tools.arguments import UNIT
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made, Tool

NUMBERS: Json = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}


class Behind:
    """The tools behind an alias, for one call of it. Keeps the pictures that they made."""

    def __init__(self, tools: Mapping[str, Tool], desk: Desk, seconds: float) -> None:
        self._tools, self.desk, self._deadline = tools, desk, time.monotonic() + seconds
        self.pictures: list[str] = []

    def ask(self, tool: str, /, **arguments: object) -> Json:
        """The value that a tool of ours gives."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ToolUnavailable("no time is left for this call")
        made = self._tools[tool].run(arguments, self.desk, seconds=left)
        self.pictures += made.pictures
        return made.value


@dataclass(frozen=True)
class Alias:
    """A name over the tools `targets`. `run` gives the value that is told."""

    name: str
    targets: tuple[str, ...]
    description: str
    run: Callable[[Json, Behind], Json]
    properties: Json
    required: tuple[str, ...] = ()


class AliasTool:
    """An alias that runs."""

    def __init__(self, alias: Alias, tools: Mapping[str, Tool]) -> None:
        """`tools` has its targets by name, and closes with it."""
        self._alias, self._tools = alias, tools
        cards = [tools[name].card for name in alias.targets]
        schema = {"type": "object", "properties": alias.properties, "required": list(alias.required)}
        self.card = Card(alias.name, alias.description, schema)
        if cards:
            heavy = next((card for card in cards if card.cost == "heavy"), cards[0])
            seconds = sum(card.seconds for card in cards)
            self.card = replace(self.card, cost=heavy.cost, seconds=seconds, weights=heavy.weights)

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """The calls of the tools behind it. ToolError for arguments that do not fit."""
        missing = [name for name in self._alias.required if name not in arguments]
        unknown = [name for name in arguments if name not in self._alias.properties]
        if missing or unknown:
            there = ", ".join(self._alias.properties) or "none"
            what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
            raise ToolError(f"{what}; arguments: {there}")
        behind = Behind(self._tools, desk, seconds)
        value = self._alias.run(arguments, behind)
        return Made(value, tuple(behind.pictures))

    def close(self) -> None:
        """Close the tools behind it."""
        for tool in self._tools.values():
            tool.close()


def _zoom(arguments: Json, behind: Behind) -> Json:
    names, index = behind.desk.pictures(), arguments.get("img_idx", 0)
    if not isinstance(index, int) or not 0 <= index < len(names):
        raise ToolError(f"img_idx {index}: there are {len(names)} pictures, counted from 0")
    return behind.ask("zoom", image=names[index], box=arguments["bbox_2d"])


ZOOM = Alias(
    "image_zoom_in_tool", ("zoom",),
    "Zoom in on a region of an image, given its box and the label of what is there.", _zoom,
    {
        "bbox_2d": NUMBERS | {"description": f"Box: left, top, right, bottom {UNIT}."},
        "label": {"type": "string", "description": "What is in the box."},
        "img_idx": {"type": "integer", "description": "Which image, counted from 0."},
    },
    ("bbox_2d",),
)  # fmt: skip  # what models that "think with images" call: DeepEyes and those after it
