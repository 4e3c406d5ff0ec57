"""Who may call what: rules by tool and argument, decisions that last, and asking where neither says anything.

A rule decides before a person is asked. What cannot be read is never allowed: a call without readable arguments, an
allowing rule whose argument is missing. Tools of outside servers say of themselves what they like, so their word
that they change nothing allows nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llavakit.core import config as settings
from llavakit.core.config import Config
from llavakit.core.errors import DataError
from llavakit.core.files import write_text

Verdict = Literal["approve", "modify", "reject", "ask", "stop"]
LASTING = ("approve", "reject")  # what a person may decide once for all


class Rule(Config):
    """The first rule that fits a call decides about it."""

    tool: str = "*"  # a name or a pattern of names
    server: str = ""  # of an outside server, or a pattern; empty: our own tools
    when: dict[str, str] = Field(default={})  # argument: a pattern its value must match
    do: Verdict
    set: dict[str, Any] = Field(default={})  # modify: the arguments that replace those of the call
    why: str = ""  # told to the model


class Policy(Config):
    """Rules in order, and what holds for calls that none of them fits."""

    rules: tuple[Rule, ...] = ()
    reading: Verdict = "approve"  # our own tools that change nothing outside the run
    otherwise: Verdict = "ask"


@dataclass(frozen=True)
class Decision:
    """What happens to a call, why, and who said so."""

    do: Verdict
    why: str = ""
    by: Literal["policy", "person", "kept", "loop"] = "policy"
    arguments: Mapping[str, Any] = field(default_factory=dict)  # modify: instead of the call's own
    lasting: bool = False  # a person's: for this tool from now on


@dataclass(frozen=True)
class Subject:
    """What is decided about. Without arguments they could not be read."""

    tool: str
    server: str  # empty: our own
    arguments: Mapping[str, Any] | None
    read_only: bool
    card: str  # digest of what the tool says of itself


def digest(card: Any) -> str:
    """A name for what a tool says of itself: a tool that says something else has another."""
    return sha256(json.dumps(card, sort_keys=True, default=str).encode()).hexdigest()


def load_policy(path: Path) -> Policy:
    """A YAML file of rules. ConfigError for what is none."""
    return settings.load(Policy, path)


class Kept:
    """Decisions that last, in a file: of (server, tool), for the card that the person saw.

    A tool whose card has changed since is asked about again, whatever rules say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, str]] = {}
        if path.exists():
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"decisions cannot be read: {error}", path=path) from None
            if not isinstance(rows, dict) or not all(map(_is_row, rows.values())):
                raise DataError("not a file of decisions; move it away to be asked anew", path=path)
            self._rows = rows

    def find(self, subject: Subject) -> Verdict | None:
        """What was decided for good, if the tool still says of itself what it said then."""
        row = self._rows.get(_key(subject), {})
        known: dict[str, Verdict] = {word: word for word in LASTING}  # type: ignore[misc]
        return known.get(row.get("do", "")) if row.get("card") == subject.card else None

    def changed(self, subject: Subject) -> bool:
        """Whether the tool said something else of itself when it was last seen."""
        row = self._rows.get(_key(subject))
        return row is not None and row["card"] != subject.card

    def pin(self, subject: Subject, do: Verdict | None = None) -> None:
        """Remember what the tool says of itself, and what was decided about it for good."""
        row = {"card": subject.card} | ({"do": do} if do in LASTING else {})
        if self._rows.get(_key(subject)) != row:
            self._rows[_key(subject)] = row
            write_text(self.path, json.dumps(self._rows, indent=1, sort_keys=True) + "\n")


def decide(policy: Policy, kept: Kept | None, subject: Subject) -> Decision:
    """What happens to a call before any person is asked."""
    if subject.arguments is None:
        return Decision("reject", "its arguments cannot be read", by="loop")
    if kept is not None and subject.server:
        if kept.changed(subject):
            return Decision("ask", "what the tool says of itself has changed since it was last seen")
        if kept.find(subject) is None:
            kept.pin(subject)
    last = kept.find(subject) if kept is not None else None
    for rule in policy.rules:
        if _fits(rule, subject, subject.arguments):
            if rule.do == "ask" and last is not None:
                return Decision(last, "decided before", by="kept")
            return Decision(rule.do, rule.why, arguments={**subject.arguments, **rule.set})
    if last is not None:
        return Decision(last, "decided before", by="kept")
    own = subject.read_only and not subject.server
    return Decision(policy.reading if own else policy.otherwise)


def _fits(rule: Rule, subject: Subject, arguments: Mapping[str, Any]) -> bool:
    if not (fnmatchcase(subject.tool, rule.tool) and fnmatchcase(subject.server, rule.server)):
        return False
    allows = rule.do in ("approve", "modify")
    for name, pattern in rule.when.items():
        found = [fnmatchcase(text, pattern) for text in _texts(arguments.get(name))]
        # One bad value inside a list is enough to forbid; to allow, all must be good ones.
        if not (found and (all(found) if allows else any(found))):
            return False
    return True


def _texts(value: Any) -> Iterator[str]:
    """The plain values in an argument, as texts."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield value if isinstance(value, str) else json.dumps(value)


def _key(subject: Subject) -> str:
    return json.dumps([subject.server, subject.tool])


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("card"), str) and set(row) <= {"card", "do"}
