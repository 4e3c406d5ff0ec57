"""A server that is told of tools and calls them in OpenAI's words: `tools`, `tool_calls`, messages of tools.

The run's conversation is text (form `openai`); here its turns become messages, and calls that the server tells come
back as that text.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llavakit.agent.forms import CALL_ID, openai_tool
from llavakit.core.errors import RemoteError, RemoteRefused
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.remote import Remote
from llavakit.text import hermes
from llavakit.text.calls import Call, Card
from llavakit.text.conversation import Conversation, Message, Part, Text, Video
from llavakit.wire import write_message

MOST_CALLS = 64  # of one answer


class ToolCaller(Responder):
    """Asks `remote` with the tools of these cards."""

    def __init__(self, remote: Remote, cards: Sequence[Card], *, closing: bool = False) -> None:
        """`closing`: none of them may be called any more."""
        self._remote, self._cards, self._closing = remote, cards, closing
        self._tools, self._names = [openai_tool(card) for card in cards], frozenset(c.name for c in cards)

    def closing(self) -> "ToolCaller":
        """The same for the last answer."""
        return ToolCaller(self._remote, self._cards, closing=True)

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next text in pieces; behind it the calls, whole. At the end there are none."""
        body = self._remote.body(conversation, sampling) | {"messages": self._messages(conversation)}
        if not self._tools:
            yield from self._said_to(body)
        elif not self._closing:
            yield from self._said_to(body | {"tools": self._tools})
        else:
            try:
                yield from self._said_to(body | {"tools": self._tools, "tool_choice": "none"})
            except RemoteRefused:  # it knows no such choice; without tools there is none
                yield from self._said_to(body)

    def _said_to(self, body: dict[str, Any]) -> Iterator[str]:
        calls: dict[int, list[str]] = {}  # name and arguments, by their number
        for delta in self._remote.deltas(body):
            if text := delta.get("content"):
                yield text
            for piece in delta.get("tool_calls") or ():
                _grow(calls, piece)
        if calls and not self._closing:  # a server may not heed the choice
            made = [Call(name, arguments.strip() or "{}") for name, arguments in calls.values()]
            yield "\n" + hermes.calls_text("", made)

    def _messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """OpenAI's messages. Calls have the ids that the run gave them: they are numbered as they came."""
        written: list[dict[str, Any]] = []
        count, open_ids = 0, list[str]()
        for message in conversation.messages:
            if message.role == "assistant":
                said = self._said(message.text, count)
                open_ids = [call["id"] for call in said.get("tool_calls", ())]
                count += len(open_ids)
                written.append(said)
            elif message.role == "user" and open_ids:
                written += _results(message, open_ids)
                open_ids = []
            else:
                written.append(write_message(message))
        return written

    def _said(self, text: str, count: int) -> dict[str, Any]:
        reader = hermes.CallReader(self._names)
        items = [*reader.add(text), *reader.finish()]
        calls = [item for item in items if isinstance(item, Call)]
        words = "".join(item for item in items if isinstance(item, str)).strip()
        if not calls:
            return {"role": "assistant", "content": words}
        made = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(calls, 1 + count)
        ]
        return {"role": "assistant", "content": words or None, "tool_calls": made}

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """One after the other."""
        return [
            Answer("".join(self.stream(talk, sampling=sampling)).strip(), "stop") for talk in conversations
        ]

    def num_tokens(self, answer: str) -> int | None:
        """As the server counted the newest."""
        return self._remote.num_tokens(answer)

    def describe(self, video: Video) -> str:
        """One line about a video that will be sent."""
        return self._remote.describe(video)


def _grow(calls: dict[int, list[str]], piece: Any) -> None:
    """A piece of a call: its name comes once, its arguments bit by bit."""
    try:
        number, said = int(piece.get("index", len(calls))), piece["function"]
        name, arguments = said.get("name") or "", said.get("arguments") or ""
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise TypeError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RemoteError(f"the server told a call that is none of OpenAI's: {str(piece)[:200]}") from None
    if number not in calls and len(calls) >= MOST_CALLS:
        raise RemoteError(f"the server told more than {MOST_CALLS} calls in one answer")
    known = calls.setdefault(number, ["", ""])
    known[0] += name
    known[1] += arguments


def _results(message: Message, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The results of these calls as messages of tools, and the rest (pictures, complaints) as the user's."""
    tools: list[dict[str, Any]] = []
    rest: list[Part] = []
    for part in message.parts:
        found = _result(part)
        if found is not None and found[CALL_ID] in ids:
            tools.append({"role": "tool", **found})
        else:
            rest.append(part)
    return [*tools, *([write_message(Message("user", tuple(rest)))] if rest else [])]


def _result(part: Part) -> dict[str, Any] | None:
    if not isinstance(part, Text) or not part.text.startswith("{"):
        return None
    try:
        said = json.loads(part.text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.keys() == {CALL_ID, "content"} else None
