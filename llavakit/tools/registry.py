"""The one place that runs calls: every caller (agent, server, page, shell) gets the same errors and limits."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from llavakit.core.errors import ConfigError, UserError, nearest
from llavakit.text.calls import Call, Card, Json, Result, ToolError, ToolUnavailable, read_arguments
from llavakit.tools.arguments import told
from llavakit.tools.desk import Desk
from llavakit.vision.boxes import UNIT_WORDS, Unit


@dataclass(frozen=True)
class Made:
    """What a tool gives back: a value as JSON has them, and names of new pictures on the desk."""

    value: Json = field(default_factory=dict)
    pictures: tuple[str, ...] = ()


class Tool(Protocol):
    """Something that answers calls. `run` raises ToolError (or DataError for pictures), and nothing else."""

    @property
    def card(self) -> Card: ...

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Answer within `seconds`, or raise ToolUnavailable."""

    def close(self) -> None:
        """Give back what it holds (processes, connections); a call that runs ends with ToolUnavailable."""


class Registry:
    """Tools by name, listed in the order of their names."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in sorted(tools, key=lambda tool: tool.card.name):
            if tool.card.name in self.tools:
                raise ConfigError(f"two tools are called {tool.card.name}")
            self.tools[tool.card.name] = tool

    @property
    def cards(self) -> Sequence[Card]:
        """The cards for boxes from 0 to 1, as LLaVA writes them."""
        return self.cards_for("0-1")

    def cards_for(self, unit: Unit, *, by_id: bool = False) -> Sequence[Card]:
        """The cards as a model is told them that writes boxes in this unit, and names pictures by id or `img_1`."""
        cards = (tool.card for tool in self.tools.values())
        return [
            replace(card, parameters=told(card.parameters, UNIT_WORDS[unit], by_id=by_id)) for card in cards
        ]

    def call(self, call: Call, desk: Desk, *, deadline: float) -> Result:
        """Run a call. Never raises for what a model can cause: that is the result's `error`.

        `deadline` is a moment of `time.monotonic()`; the tool's own limit holds too.
        """
        begun = time.monotonic()
        try:
            made = self._made(call, desk, deadline - begun)
        except UserError as error:  # of the call, of a picture, of the disk: the caller goes on with it
            gone = isinstance(error, ToolUnavailable)
            return Result(call, error=str(error), unavailable=gone, seconds=time.monotonic() - begun)
        return Result(call, made.value, made.pictures, seconds=time.monotonic() - begun)

    def close(self) -> None:
        """Give back what the tools hold."""
        for tool in self.tools.values():
            tool.close()

    def _made(self, call: Call, desk: Desk, seconds: float) -> Made:
        tool = self.tools.get(call.name)
        if tool is None:
            raise ToolError(f"there is no tool {call.name[:60]!r}{nearest(call.name, self.tools)}")
        if seconds <= 0:
            raise ToolError("no time is left for this call")
        return tool.run(read_arguments(call), desk, seconds=min(seconds, tool.card.seconds))
