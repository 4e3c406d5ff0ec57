"""Tools as text, in the way of Hermes and Qwen: what the model is told, and the calls in what it says.

A model that was trained on this form calls in it; one that was not just answers. Calls that are forced
(tool_choice `required` or a name) come through a JSON schema instead, which any model must follow. The form is
ordinary text: who may write user messages may also write what looks like the answer of a tool.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llavakit.text.calls import Call, refuse_constant

OPEN, CLOSE = "<tool_call>", "</tool_call>"
STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')  # a whole one, as JSON has them
CONTROL = re.compile(r"[\x00-\x1f]")  # not in a string of JSON
# Word for word what these models were trained with.
BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
RESPONSE = "<tool_response>\n", "\n</tool_response>"  # around what a tool answered, in the next user turn


def tools_text(system: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The system text with the tools behind it; `tools` as OpenAI writes them."""
    lines = "".join(f"\n{json.dumps(tool, ensure_ascii=False, allow_nan=False)}" for tool in tools)
    return f"{system}\n\n{BEFORE}{lines}{AFTER}" if system else f"{BEFORE}{lines}{AFTER}"


def calls_text(text: str, calls: Sequence[Call]) -> str:
    """An assistant's message of the history as the model would have said it."""
    said = [
        f'{OPEN}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSE}'
        for call in calls
    ]
    return "\n".join([text, *said] if text else said)


def forced_schema(
    tools: Mapping[str, Mapping[str, Any] | None], instead: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON schema of exactly one call of one of these functions, given with their parameters.

    Or, where there is one, of what `instead` admits.
    """
    branches: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "arguments": _on_its_own(name, parameters or {"type": "object"}),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, parameters in tools.items()
    ]
    if instead is not None:
        branches.append(_on_its_own("", instead))  # no function has this name
    return branches[0] if len(branches) == 1 else {"anyOf": branches}


def _on_its_own(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema inside another that its references (`#`, `#/$defs/...`) do not leave: it has a name of its own."""
    return {"$id": f"llavakit:{name}"} | dict(schema)


def read_call(text: str, names: frozenset[str]) -> Call | None:
    """The call that this JSON text is, if it is one of a function that was offered."""
    try:
        said = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return None
    match said:
        case {"name": str(name), "arguments": dict(arguments)} if name in names:
            return _call(name, arguments)
        case {"name": str(name), **rest} if name in names and rest.get("arguments") is None:
            return Call(name, "{}")  # models leave out what is empty
    return None


class CallReader:
    """Tells calls from text while an answer is being said.

    What is not a whole call of an offered function stays text, letter for letter: nothing the model said is lost.
    """

    def __init__(self, names: frozenset[str], *, only_first: bool = False) -> None:
        """With `only_first` the answer is at its end with its first call (parallel_tool_calls: false)."""
        self.names, self.only_first = names, only_first
        self.done = False
        self._held = ""  # may begin a mark, or is inside one
        self._called = False

    def add(self, piece: str) -> list[str | Call]:
        """Texts and calls that are certain now, in order."""
        self._held += piece
        return self._take(whole=False)

    def finish(self) -> list[str | Call]:
        """What is left when the answer ends: a call that was not closed is text."""
        out = self._take(whole=True)
        if not self.done:
            self._say(self._held, out)
        self._held = ""
        return out

    def _take(self, *, whole: bool) -> list[str | Call]:
        """What of the held text is certain; all of it that has marks where nothing more comes."""
        out: list[str | Call] = []
        while not self.done:
            start = self._held.find(OPEN)
            if start < 0:
                keep = _overlap(self._held)
                self._say(self._held[: len(self._held) - keep], out)
                self._held = self._held[len(self._held) - keep :]
                break
            end = _find_close(self._held, start + len(OPEN), whole=whole)
            if end < 0:
                self._say(self._held[:start], out)
                self._held = self._held[start:]
                break
            self._say(self._held[:start], out)
            call = read_call(self._held[start + len(OPEN) : end], self.names)
            end += len(CLOSE)
            if call is None:
                self._called = False
                out.append(self._held[start:end])
            else:
                self._called, self.done = True, self.only_first
                out.append(call)
            self._held = self._held[end:]
        return out

    def _say(self, text: str, out: list[str | Call]) -> None:
        if self._called:  # blanks between one call and the next are the form's, not the answer's
            text = text.lstrip()
        if text:
            self._called = False
            out.append(text)


def _call(name: str, arguments: dict[str, Any]) -> Call | None:
    """None where JSON cannot say the arguments again: 1e999 is read as infinity."""
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return None
    # Half of a surrogate pair is no letter, and stays the escape that the model wrote.
    return Call(name, text if _is_text(text) else json.dumps(arguments))


def _is_text(text: str) -> bool:
    """Whether it can be sent: no halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_close(text: str, start: int, *, whole: bool) -> int:
    """Where the mark stands that ends the call whose JSON begins at `start`; -1 while that is not certain.

    A mark inside of a string of the JSON is a part of the string. Where no JSON comes of that (a quote was not
    closed), or nothing more comes (`whole`), the first mark is meant.
    """
    first = end = text.find(CLOSE, start)
    while end >= 0 and _in_string(text[start:end]):
        end = text.find(CLOSE, end + len(CLOSE))
    if end == first or (end < 0 and whole):
        return first
    if end < 0:
        return -1
    try:
        json.loads(text[start:end])
    except (ValueError, RecursionError):
        return first
    return end


def _in_string(json_text: str) -> bool:
    """Whether JSON that breaks off here does so inside of a string, in which it could go on."""
    rest = STRING.sub("", json_text)
    quote = rest.find('"')
    return quote >= 0 and not CONTROL.search(rest, quote)


def _overlap(text: str) -> int:
    """How many of the last letters could begin a call."""
    return next(
        (size for size in range(min(len(OPEN) - 1, len(text)), 0, -1) if text.endswith(OPEN[:size])), 0
    )
