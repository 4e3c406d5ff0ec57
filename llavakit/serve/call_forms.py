"""How a served model writes calls, and is told of results: as Hermes and Qwen do, or as LLaVA-Plus.

The client speaks OpenAI's words in either case. A model of LLaVA-Plus is told of no tools: it knows its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from llavakit.text.calls import Call
from llavakit.text.conversation import Part, Text
from llavakit.text.hermes import RESPONSE, CallReader, calls_text, tools_text
from llavakit.text.llava_plus import PlusReader, action_of, as_python, results_text, write_answer

FormName = Literal["hermes", "llava_plus"]


class CallForm(ABC):
    """One way of writing all of it."""

    @abstractmethod
    def head(self, own: str, tools: Sequence[dict[str, Any]]) -> str:
        """The system text, where tools are offered; `own` is what stands there without."""

    @abstractmethod
    def said(self, text: str, thoughts: str, calls: Sequence[Call]) -> str:
        """An answer of the history, as the model would have said it."""

    @abstractmethod
    def results(self, told: Sequence[tuple[str, Sequence[Part]]], question: str) -> tuple[Part, ...]:
        """The user's turn with what tools of these names answered; `question` is what they were called for."""

    @abstractmethod
    def reader(self, names: frozenset[str], *, only_first: bool) -> CallReader | PlusReader | None:
        """What tells calls from text; None where text is all there is."""


class HermesForm(CallForm):
    """<tools>, <tool_call>, <tool_response>. What was thought is not said again."""

    def head(self, own: str, tools: Sequence[dict[str, Any]]) -> str:
        return tools_text(own, tools)

    def said(self, text: str, thoughts: str, calls: Sequence[Call]) -> str:
        return calls_text(text, calls)

    def results(self, told: Sequence[tuple[str, Sequence[Part]]], question: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        for _, each in told:
            parts += [Text("\n")] if parts else []
            parts += [Text(RESPONSE[0]), *each, Text(RESPONSE[1])]
        return tuple(parts)

    def reader(self, names: frozenset[str], *, only_first: bool) -> CallReader | None:
        return CallReader(names, only_first=only_first) if names else None


class PlusForm(CallForm):
    """Thoughts, actions and value in each answer. Pictures of results stand in front of their texts."""

    def head(self, own: str, tools: Sequence[dict[str, Any]]) -> str:
        return own

    def said(self, text: str, thoughts: str, calls: Sequence[Call]) -> str:
        return write_answer(thoughts, [action_of(call) for call in calls], text)

    def results(self, told: Sequence[tuple[str, Sequence[Part]]], question: str) -> tuple[Part, ...]:
        pictures = [part for _, parts in told for part in parts if not isinstance(part, Text)]
        values = [
            (name, as_python("".join(part.text for part in parts if isinstance(part, Text))))
            for name, parts in told
        ]
        return (*pictures, Text(results_text(values, question)))

    def reader(self, names: frozenset[str], *, only_first: bool) -> PlusReader:
        return PlusReader(names, only_first=only_first)


CALL_FORMS: dict[FormName, CallForm] = {"hermes": HermesForm(), "llava_plus": PlusForm()}
