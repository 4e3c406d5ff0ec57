"""A run on the terminal: what the model says, and its calls as a tree that grows while they run."""

import json
from collections.abc import Iterable
from typing import Any

from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from llavakit.agent.events import (
    CallMade,
    Decided,
    Forced,
    Piece,
    Returned,
    Running,
    Said,
    Unread,
    Waiting,
)
from llavakit.agent.policy import Decision
from llavakit.agent.run import EVENTS, Run
from llavakit.core.errors import shorten
from llavakit.core.progress import console, printable, say
from llavakit.text.calls import Call, Card, ToolError, read_arguments

WIDE = 160  # letters of arguments and results that a line shows
RUNNING = "running ..."
KEYS = "y yes, n no, a always, v never, e edit the arguments, s stop and answer, w wait: decide later"
ANSWERS = {
    "y": Decision("approve"),
    "n": Decision("reject"),
    "a": Decision("approve", lasting=True),
    "v": Decision("reject", lasting=True),
    "s": Decision("stop", "a person stopped the run"),
    "w": Decision("ask"),
}


class Screen:
    """Draws a run, and asks the person in front of it."""

    def __init__(self) -> None:
        self._view = _View()
        self._live = self._new()

    def show(self, events: Iterable[Any]) -> None:
        """Draw events as they come."""
        self._live.start()
        try:
            for event in events:
                self._view.take(event)
        finally:
            self._live.stop()
        if not console.is_terminal:
            console.print()  # rich ends the tree without a line break there

    def _new(self) -> Live:
        return Live(self._view.tree, console=console, refresh_per_second=8)

    def ask(self, call: Call, card: Card, why: str) -> Decision | None:
        """What the person says about a call; None where nobody is there, or where it shall wait."""
        self._live.stop()  # what is typed would be drawn over
        if not console.is_terminal:
            console.print()
        whose = f"{card.name} of server {card.server}" if card.server else card.name
        say(f"{whose}: {shorten(card.description, 2 * WIDE)}")
        say(f"  called with {call.arguments}{f' ({why})' if why else ''}")
        try:
            while (decision := _decision(call)) is None:
                say(KEYS)
            return None if decision.do == "ask" else decision
        except (EOFError, KeyboardInterrupt):
            return None
        finally:
            self._live = self._new()  # the old one would draw over what was asked and typed
            self._live.start()


def _decision(call: Call) -> Decision | None:
    """One line of the person; None where it says nothing that is known. `ask` leaves the call for later."""
    word = console.input("allow it? [y/n/a/v/e/s/w/?] ", markup=False).strip().lower()
    if word == "e":
        typed = console.input("arguments as JSON: ", markup=False)
        try:
            return Decision("modify", arguments=read_arguments(Call(call.name, typed)))
        except ToolError as error:
            say(str(error))
            return None
    return ANSWERS.get(word)


def report(run: Run) -> None:
    """The answer with what it rests on, and where its pictures are."""
    answered = run.state.answered
    if answered is not None:
        say(answered.text)
    for name, path in run.export().items():
        say(f"{name}: {path}")
    say(f"the run: {run.folder / EVENTS}")


class _View:
    """The tree so far."""

    def __init__(self) -> None:
        self.tree = Tree(Text("agent", style="bold"))
        self._saying: Tree | None = None
        self._said = ""
        self._calls: dict[str, Tree] = {}

    def take(self, event: Any) -> None:
        """Draw one event."""
        match event:
            case Piece():
                self._said += event.text
                if self._saying is None:
                    self._saying = self.tree.add("")
                self._saying.label = _text(shorten(" ".join(self._said.split()), 4 * WIDE), "dim")
            case Said():
                if self._saying is None:  # of a run that is shown again: there were no pieces
                    self._saying = self.tree.add("")
                if event.text.strip():
                    self._saying.label = _text(shorten(" ".join(event.text.split()), 4 * WIDE), "dim")
                self._saying, self._said = None, ""
            case CallMade():
                line = f"{event.id} {event.name}({shorten(event.arguments, WIDE)})"
                self._calls[event.id] = self.tree.add(_text(line))
            case Decided() if event.do not in ("approve", "modify"):
                self._under(event.id, f"{event.do}: {event.why or event.by}", "yellow")
            case Decided() if event.do == "modify":
                self._under(event.id, f"with {shorten(json.dumps(event.arguments), WIDE)}", "yellow")
            case Running():
                self._under(event.id, RUNNING, "dim")
            case Returned():
                node = self._calls[event.id]
                node.children[:] = [kid for kid in node.children if str(kid.label) != RUNNING]
                colour = "green" if event.error is None else "red"
                self._under(event.id, f"{shorten(event.text, WIDE)} ({event.seconds:.2f} s)", colour)
            case Waiting():
                self._under(event.id, f"waits for a person: {event.why or 'no rule says it may'}", "yellow")
            case Unread():
                self.tree.add(_text(event.problem, "red"))
            case Forced():
                self.tree.add(_text(f"stopped: {event.why}", "yellow"))

    def _under(self, call: str, line: str, style: str) -> None:
        self._calls[call].add(_text(line, style))


def _text(line: str, style: str = "") -> Text:
    """What strangers wrote, as text: no markup, and nothing that a terminal obeys."""
    return Text(printable(line), style=style)
