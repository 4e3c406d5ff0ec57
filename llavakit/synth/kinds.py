"""The kinds of data, a row each: what makes it, what it is asked with, what its filters are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from llavakit.core.errors import pick
from llavakit.synth import instruct, judged, videos
from llavakit.synth.desk import Desk
from llavakit.synth.draft import Draft
from llavakit.synth.filters import ALWAYS, Filters, Length, figure_leak, leak, unknown

Writer = Literal["told or sees", "sees", "told", "nobody"]
TOLD: Filters = {"leak": leak}
FIGURE: Filters = {"leak": figure_leak}


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    about: str
    make: Callable[[Desk], Draft]
    writer: Writer  # whether it is shown the pictures
    filters: Filters
    prompt: str | None = (
        ""  # file of its prompt; "": named as the kind; None: it asks nobody in its own words
    )
    group: int = 1  # pictures of a folder that belong together
    compared: bool = True  # texts that are much alike are doubles
    by_domain: bool = False  # domains take turns
    also: tuple[str, ...] = field(default=())  # further prompts

    @property
    def always_sees(self) -> bool:
        return self.writer == "sees"


def _filters(fewest: int, most: int, *more: Filters) -> Filters:
    found: Filters = dict(ALWAYS)
    for each in more:
        found |= each
    return found | {"length": Length(fewest, most)}


KINDS = {
    "conversation": Kind(
        "questions and answers about what is seen", instruct.conversation, "told or sees", _filters(3, 600, TOLD)
    ),
    "detail": Kind("a full description", instruct.detail, "told or sees", _filters(30, 600, TOLD)),
    "reasoning": Kind(
        "a question that needs steps, and the steps", instruct.reasoning, "told or sees", _filters(30, 600, TOLD)
    ),
    "medical": Kind(
        "a conversation about a figure, from its caption and mentions", instruct.medical, "told or sees",
        _filters(10, 800, FIGURE), by_domain=True,
    ),
    "medical-captions": Kind(
        "a figure's caption, asked for in brief or in detail; asks nobody", instruct.medical_captions, "nobody",
        _filters(1, 2000), prompt=None, by_domain=True,
    ),
    "recap": Kind(
        "a detailed caption by a model that sees (LLaVA-ReCap)", instruct.recap, "sees", _filters(15, 800)
    ),
    "document": Kind(
        "the text of a document, and questions that it answers", instruct.document, "sees",
        _filters(1, 4000), compared=False,
    ),
    "answers": Kind("your own questions, answered", instruct.answers, "sees", _filters(1, 800), compared=False),
    "differences": Kind(
        "several pictures compared", instruct.differences, "told or sees", _filters(15, 800, TOLD), group=2
    ),
    "video-captions": Kind(
        "a video described, every 10 s, every 30 s and as a whole", videos.video_captions, "sees",
        _filters(15, 2000),
    ),
    "video-questions": Kind(
        "questions of sixteen kinds about a video, open and with options", videos.video_questions, "told",
        _filters(3, 1200, TOLD, {"unknown": unknown}),
    ),
    "critique": Kind(
        "a verdict on one answer or two, with reasons", judged.critique, "sees", _filters(3, 1200), compared=False
    ),
    "preferences": Kind(
        "the best and the worst of several answers", judged.preferences, "sees", _filters(1, 1200), compared=False
    ),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """The kind of this name; ConfigError with the nearest names for another."""
    return pick(KINDS, name, "kind of data")
