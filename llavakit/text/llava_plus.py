"""LLaVA-Plus' text for calls of tools (arXiv 2311.05437), byte for byte as its released weights saw it.

An answer is three labelled lines: thoughts, a JSON list of calls, the words for the person. The served code read it
with one greedy pattern and, where that failed, with `eval`; here the first label of each kind counts, and nothing
is run. What cannot be read is told, and the raw text is kept by whoever has it.
"""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llavakit.text.calls import Call, refuse_constant

# The labels with their quotes and signs are what released weights learned; so are `json`'s blanks and escapes.
THOUGHTS, ACTIONS, VALUE = '"thoughts🤔" ', '"actions🚀" ', '"value👉" '
LABELS = {
    name: re.compile(rf'"?{re.escape(label.strip().strip(chr(34)))}"?[ \t]?')
    for name, label in (("thoughts", THOUGHTS), ("actions", ACTIONS), ("value", VALUE))
}
# Names of the release that OpenAI's rule for names does not let a client offer, by the ones that it may.
WITH_PLUS = {
    name.replace("+", "_"): name
    for name in ("grounding_dino+sam", "ram+grounding_dino", "blip2+grounding_dino")
}
WRITABLE = {name: written for written, name in WITH_PLUS.items()}
LONGEST = 20_000  # letters of a list that is read as Python's, which takes memory many times its length
BROKEN = (ValueError, SyntaxError, MemoryError, RecursionError, TypeError)


@dataclass(frozen=True)
class PlusAnswer:
    """The three parts of an answer. `problem` says why its calls could not be read; then there are none."""

    thoughts: str
    calls: tuple[Call, ...]
    value: str
    problem: str | None = None


def write_answer(thoughts: str, actions: Sequence[Any], value: str) -> str:
    """An answer as one text. `actions` are objects with API_name and API_params; ValueError for what is no JSON."""
    return f"{THOUGHTS}{thoughts}\n{ACTIONS}{json.dumps(list(actions))}\n{VALUE}{value}\n"


def action_of(call: Call) -> dict[str, Any]:
    """A call in the words of the data."""
    name = WITH_PLUS.get(call.name, call.name)
    return {"API_name": name, "API_params": json.loads(call.arguments or "{}")}


def read_answer(text: str) -> PlusAnswer:
    """The parts of whatever a model said. Text without labels is a value. Never raises."""
    places: dict[str, re.Match[str]] = {}
    start = 0
    for name, label in LABELS.items():
        found = label.search(text, start)
        if found is not None:
            places[name], start = found, found.end()
    if not places:
        return PlusAnswer("", (), text.strip())
    ends = [*(found.start() for found in places.values()), len(text)]
    parts = {name: text[found.end() : ends[at + 1]] for at, (name, found) in enumerate(places.items())}
    calls, problem = _read_actions(parts.get("actions", "[]"))
    # Each part closes its line; a streamed answer comes stripped.
    thoughts, value = (parts.get(name, "").removesuffix("\n") for name in ("thoughts", "value"))
    return PlusAnswer(thoughts, calls, value, problem)


def _read_actions(text: str) -> tuple[tuple[Call, ...], str | None]:
    start = text.find("[")
    if start < 0:
        return (), "the list of actions is missing"
    try:
        actions = json.JSONDecoder(parse_constant=refuse_constant).raw_decode(text, start)[0]
    except BROKEN:
        try:
            written = text[start : text.rfind("]") + 1]
            actions = ast.literal_eval(written) if len(written) <= LONGEST else None
        except BROKEN:
            actions = None
    if not isinstance(actions, list):
        return (), "the actions are no JSON list"
    calls = []
    for action in actions:
        match action:
            case {"API_name": str(name), "API_params": dict(params)}:
                try:
                    arguments = json.dumps(params, allow_nan=False)
                except BROKEN:
                    return (), "the parameters of an action are no JSON"
                calls.append(Call(name, arguments))
            case _:
                return (), "an action is an object with API_name (a text) and API_params (an object)"
    return tuple(calls), None


def results_text(results: Sequence[tuple[str, Any]], question: str) -> str:
    """The turn that brings results: each by its tool's name, as Python writes values, then the question again."""
    said = "".join(f"{name} model outputs: {value}\n\n" for name, value in results)
    return f"{said}Please summarize the model outputs and answer my first question: {question}"


def as_python(text: str, without: Sequence[str] = ()) -> str:
    """A result as the release told it: JSON as Python writes values, less some fields; other text as it is."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(said, dict):
        said = {name: value for name, value in said.items() if name not in without}
    return str(said)


@dataclass(frozen=True)
class Thought:
    """What a model thinks before it calls or answers."""

    text: str


class PlusReader:
    """Tells thoughts and calls from the words while an answer is being said, with the face of `hermes.CallReader`.

    An answer whose calls cannot be read, or are none of what was offered, stays text, letter for letter.
    """

    def __init__(self, names: frozenset[str], *, only_first: bool = False) -> None:
        """With `only_first` the first call alone is told (parallel_tool_calls: false)."""
        self._names, self._only_first = names, only_first
        self._held, self._looked, self._speaks = "", 0, False
        self.done = False  # the words come after the calls: an answer is at its end when the model says so

    def add(self, piece: str) -> list[str | Call | Thought]:
        """Words that are certain now; thoughts and calls come before them, when the label of the words is there."""
        if self._speaks:
            return [piece]
        self._held += piece
        # A label may have begun before this piece.
        found = LABELS["value"].search(self._held, max(0, self._looked - len(VALUE)))
        self._looked = len(self._held)
        # The blank behind the label belongs to it, and may be still to come.
        if found is None or found.end() == len(self._held):
            return []
        self._speaks = True
        return self._parts(self._held[: found.end()], self._held[found.end() :])

    def finish(self) -> list[str | Call | Thought]:
        """What is left when the answer ends."""
        return [] if self._speaks or not self._held else self._parts(self._held, "")

    def _parts(self, head: str, words: str) -> list[str | Call | Thought]:
        """What stands in `head`, and the words behind it."""
        if not any(label.search(head) for label in LABELS.values()):
            return [head + words]
        said = read_answer(head)
        calls = [Call(WRITABLE.get(call.name, call.name), call.arguments) for call in said.calls]
        if said.problem is not None or not {call.name for call in calls} <= self._names:
            return [head + words]
        found: list[str | Call | Thought] = [Thought(said.thoughts)] if said.thoughts else []
        found += calls[:1] if self._only_first else calls
        words = said.value + words
        return [*found, words] if words else found
