"""What a row must not be, each with a name under which it is counted. They look at the text alone."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from llavakit.data.dialects.unread import PLACEHOLDERS
from llavakit.rules.languages import language_of
from llavakit.rules.shingles import words_of
from llavakit.synth.draft import Draft
from llavakit.synth.settings import SynthConfig

# What a draft has that the filter is about; nothing where all is well.
Find = Callable[[Draft, SynthConfig], str]
AROUND = 40  # letters shown beside what was found


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)


REFUSAL = _any(
    r"I(?:'m| am) (?:sorry|unable|not able)",
    r"I (?:can(?:'t|not| not)|could not|couldn't) (?:see|view|help|assist|provide|describe|answer|process)",
    r"as an? (?:AI|artificial|language) (?:model|assistant|language|intelligence)",
    r"(?:unable|not able|impossible) to (?:see|view|analy[sz]e|process) (?:the |this |that |any )?"
    r"(?:image|picture|photo|video|figure)",
    r"my apologies",
    r"I apologi[sz]e",
)
# A writer that was told what is in the picture speaks of what it was told.
TOLD = r"(?:descriptions?|sentences?|text|context|information|annotations?|list(?: of objects)?)"
LEAK = _any(
    r"captions?",
    r"bounding box(?:es)?",
    r"coordinates",
    rf"(?:based on|according to|given) (?:the|these|this|your) (?:provided |given )*{TOLD}",
    rf"the (?:provided|given) {TOLD}",
    r"(?:descriptions?|sentences?|text) (?:says?|mentions?|states?|provides?|do(?:es)? not (?:say|mention))",
    r"mentioned in",
    r"[01]?\.\d{2,}, [01]?\.\d{2,}",  # a box
)
# LLaVA-Med drops what speaks of its sources in any way.
FIGURE_LEAK = _any(
    r"captions?",
    r"context",
    r"mentioned",
    r"reported",
    r"described in",
    r"the (?:text|article|paper|authors?)",
)
UNKNOWN = _any(
    r"(?:is|are|was|were) not (?:specified|mentioned|stated|given|described|clear from)",
    r"(?:does|do) not (?:specify|mention|state)",
    r"no (?:information|mention)",
    r"not enough information",
    r"cannot be determined",
)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        return ""
    return "..." + " ".join(text[max(0, found.start() - AROUND) : found.end() + AROUND].split()) + "..."


def refusal(draft: Draft, _: SynthConfig) -> str:
    return _first(REFUSAL, draft.answers)


def leak(draft: Draft, _: SynthConfig) -> str:
    return _first(LEAK, draft.said)


def figure_leak(draft: Draft, _: SynthConfig) -> str:
    return _first(FIGURE_LEAK, draft.said) or _first(LEAK, draft.said)


def unknown(draft: Draft, _: SynthConfig) -> str:
    """LLaVA-Video drops answers that say that the text does not say."""
    return _first(UNKNOWN, draft.answers)


def placeholder(draft: Draft, _: SynthConfig) -> str:
    """Training would take these for places of pictures."""
    for text in (draft.said, draft.rejected or ""):
        if "<image>" in text or "<video>" in text:
            return _first(re.compile("<image>|<video>"), text)
        if found := PLACEHOLDERS.search(text):
            return found[0]
    return ""


def letters(draft: Draft, _: SynthConfig) -> str:
    """Halves of characters and control characters."""
    text = draft.said + (draft.rejected or "")
    bad = next(
        (each for each in text if "\ud800" <= each <= "\udfff" or (each < " " and each not in "\n\t")), None
    )
    return "" if bad is None else repr(bad)


def repeated(draft: Draft, _: SynthConfig) -> str:
    """A question that is there twice, or an answer that only says its question again."""
    asked = [" ".join(words_of(turn.question)) for turn in draft.turns]
    twice = next((text for at, text in enumerate(asked) if text in asked[:at]), "")
    echo = (turn.answer for turn in draft.turns if words_of(turn.answer) == words_of(turn.question))
    return twice or next(echo, "")


def language(draft: Draft, config: SynthConfig) -> str:
    if config.language is None:
        return ""
    found = language_of(draft.answers)
    return "" if found in (None, config.language) else f"{found}: {draft.answers[:80]}"


@dataclass(frozen=True)
class Length:
    """Words of all answers together: too few, or more than an answer of the kind has."""

    fewest: int
    most: int

    def __call__(self, draft: Draft, _: SynthConfig) -> str:
        count = len(draft.answers.split())
        if self.fewest <= count <= self.most:
            return ""
        return f"{count} words, not {self.fewest} to {self.most}: {draft.answers[:80]}"


Filters = dict[str, Find]
ALWAYS: Filters = {
    "letters": letters, "placeholder": placeholder, "refusal": refusal, "repeated": repeated, "language": language,
}  # fmt: skip


def first_problem(draft: Draft, config: SynthConfig, filters: Filters) -> tuple[str, str] | None:
    """(the filter's name, what it found) of the first that finds something."""
    for name, find in filters.items():
        if found := find(draft, config):
            return name, found
    return None
