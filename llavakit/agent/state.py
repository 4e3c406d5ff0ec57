"""Where a run stands, made of its events alone: a run that goes on after an interruption stands where it stood."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from llavakit.agent.events import (
    Answered,
    Begun,
    CallMade,
    Decided,
    Forced,
    Returned,
    Running,
    Said,
    Unread,
    Waiting,
)


@dataclass
class Step:
    """One text of the model, and what came of the calls in it."""

    said: Said
    calls: dict[str, CallMade] = field(default_factory=dict)
    decided: dict[str, Decided] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    returned: dict[str, Returned] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def pending(self) -> list[CallMade]:
        """Calls of which nothing has come yet."""
        return [call for call in self.calls.values() if call.id not in self.returned]

    @property
    def seconds(self) -> float:
        """Of the model and of the tools, which work side by side."""
        return self.said.seconds + max((back.seconds for back in self.returned.values()), default=0.0)


@dataclass
class State:
    """All of a run so far."""

    begun: Begun
    steps: list[Step] = field(default_factory=list)
    forced: str | None = None
    waiting: Waiting | None = None
    answered: Answered | None = None
    names: dict[str, str] = field(default_factory=dict)
    same: Counter[str] = field(default_factory=Counter)  # of (call, its result)

    @classmethod
    def of(cls, events: list[Any]) -> "State":
        """The state after these events, the first of which begins the run."""
        begun = events[0]
        assert isinstance(begun, Begun)
        state = cls(begun, names=dict(begun.names))
        for event in events[1:]:
            state.take(event)
        return state

    def take(self, event: Any) -> None:
        """One more event."""
        match event:
            case Said():
                self.steps.append(Step(event))
            case CallMade():
                self.steps[-1].calls[event.id] = event
            case Unread():
                self.steps[-1].unread.append(event.problem)
            case Decided():
                self.steps[-1].decided[event.id] = event
                self.waiting = None
            case Running():
                self.steps[-1].running.add(event.id)
            case Returned():
                step = self.steps[-1]
                step.returned[event.id] = event
                self.names |= event.names
                if event.id in step.running:  # what was never run says nothing of the tool
                    call = step.calls[event.id]
                    self.same[same_key(call.name, call.arguments)] += 1
                    self.same[same_key(call.name, call.arguments, event)] += 1
            case Waiting():
                self.waiting = event
            case Forced():
                self.forced = event.why
            case Answered():
                self.answered = event

    @property
    def num_calls(self) -> int:
        """Calls that were handed to a tool."""
        return sum(len(step.running) for step in self.steps)

    @property
    def seconds(self) -> float:
        """Of work; people's time is not counted."""
        return sum(step.seconds for step in self.steps)

    def calls(self) -> list[tuple[CallMade, Returned | None]]:
        """All calls in order, with what came of them."""
        return [(call, step.returned.get(call.id)) for step in self.steps for call in step.calls.values()]

    def repeats(self, name: str, arguments: str) -> int:
        """How often this very call has given one and the same result; 0 once two results differed."""
        times = self.same[same_key(name, arguments)]
        alike = max(
            (
                self.same[same_key(name, arguments, back)]
                for call, back in self.calls()
                if back is not None and (call.name, _plain(call.arguments)) == (name, _plain(arguments))
            ),
            default=0,
        )
        return times if times == alike else 0


def same_key(name: str, arguments: str, back: Returned | None = None) -> str:
    """A call, and with `back` its result too; the names of what it made do not count."""
    result = None if back is None else [back.value, len(back.pictures), back.error]
    return json.dumps([name, _plain(arguments), result], sort_keys=True)


def _plain(arguments: str) -> str:
    """JSON text without the freedom of blanks and order; what is no JSON as it is."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
