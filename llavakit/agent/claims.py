"""Which calls a sentence of an answer rests on, and which sentences say that something was done that no call did.

Rules, not a model: a sentence states a tool's fact where it has a number or a text of its result that the
question did not have; it states an action where it says in words of doing that one was done. A sentence that rests
on nothing is left as it is: it may be what the model sees.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llavakit.agent.events import Sentence

END = re.compile(r"(?<=[.!?])\s+(?!\[call_)|\n+")  # of a sentence; its marks belong to it
MARKED_END = re.compile(r"([.!?](?:\s*\[call_\d+\])+)\s+(?!\[call_)")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\d)")
CITED = re.compile(r"\[(call_\d+)\]")
# Stems of what tools do to pictures and with them.
DOING = (
    "blur", "crop", "zoom", "rotat", "measur", "count", "detect", "remov", "replac", "inpaint", "sav", "delet",
    "edit", "resiz", "calculat", "comput", "search", "segment", "select", "mask", "fill", "paint", "mov", "creat",
    "generat", "call", "us", "wrot", "writt", "sent", "drew", "drawn", "cut",
)  # fmt: skip
STEMS = "|".join(DOING)
ACTION = re.compile(
    rf"\b(?:(?:i|we)(?:\s+have|'ve)?|(?:has|have)\s+been|(?:is|are)\s+now)\s+(?:now\s+|just\s+|successfully\s+)?"
    rf"(?P<stem>{STEMS})(?:\w?ed|d|en)?\b",
    re.IGNORECASE,
)
WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
SHORTEST = 3  # letters of a text that counts as a tool's fact


@dataclass(frozen=True)
class Known:
    """A call that is over. With an error it supports nothing."""

    id: str
    name: str
    value: Mapping[str, Any]
    pictures: bool
    failed: bool


def check_claims(answer: str, question: str, known: Sequence[Known]) -> tuple[Sentence, ...]:
    """The answer's sentences with the calls that they rest on."""
    asked = _facts_in(question)
    return tuple(_checked(text, asked, known) for text in split_sentences(answer))


def split_sentences(text: str) -> list[str]:
    """Sentences, each with its marks; a decimal point ends none."""
    return [part.strip() for part in END.split(MARKED_END.sub(r"\1\n", text)) if part.strip()]


def claims_action(text: str) -> str | None:
    """The stem of what a text says was done; None where it says nothing of the kind."""
    found = ACTION.search(text)
    return found["stem"].lower() if found else None


def _checked(text: str, asked: set[str], known: Sequence[Known]) -> Sentence:
    worked = {call.id: call for call in known if not call.failed}
    doubts = []
    for name in dict.fromkeys(CITED.findall(text)):
        if name not in worked:
            failed = any(call.id == name for call in known)
            doubts.append(f"{name} {'failed' if failed else 'does not exist'}")
    words = f" {_plain(text)} "
    rests = [name for name in CITED.findall(text) if name in worked]
    # What a named call gave is its: another one that gave the same number by chance is not named beside it.
    named = set().union(*(_numbers(worked[name].value) for name in rests))
    said = _facts_in(CITED.sub("", text)) - asked - named
    rests += [
        call.id
        for call in worked.values()
        if said & _numbers(call.value) or _has_text(words, call.value, asked)
    ]
    stem = claims_action(text)
    if stem is not None:
        did = [call.id for call in worked.values() if stem in call.name.lower()]
        if not did and not any(stem in call.name.lower() for call in known):
            did = [call.id for call in worked.values() if call.pictures] or list(worked)
        rests += did
        if not did:
            doubts.append("no call did this")
    return Sentence(text=text, calls=tuple(dict.fromkeys(rests)), doubt="; ".join(doubts))


def _facts_in(text: str) -> set[str]:
    """The numbers of a text, in digits; one to twelve may be words."""
    words = re.findall(r"[a-z]+", text.lower())
    spelled = {_number(str(value)) for value, word in enumerate(WORDS) if word in words}
    return {_number(found) for found in NUMBER.findall(text)} | spelled


def _numbers(value: Any) -> set[str]:
    found = set()
    for leaf in _leaves(value):
        if isinstance(leaf, int | float) and not isinstance(leaf, bool):
            found.add(_number(str(leaf)))
        elif isinstance(leaf, str):
            found |= {_number(number) for number in NUMBER.findall(leaf)}
    return found


def _has_text(words: str, value: Any, asked: Collection[str]) -> bool:
    """Whether a text of the result stands among the words."""
    for leaf in _leaves(value):
        if isinstance(leaf, str) and len(leaf) >= SHORTEST and leaf.lower() not in asked:
            said = _plain(leaf)
            if said and f" {said} " in words:
                return True
    return False


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            if isinstance(inner, Mapping):  # {"by_color": {"red": 3}}: these keys are what was found
                yield from inner
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _number(text: str) -> str:
    """2.0 and 2 are one number."""
    return f"{float(text):g}"


def _plain(text: str) -> str:
    """Words in lower case, one blank apart."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
