"""What a kind makes of an item, before it is a row; and why there is none."""

from dataclasses import dataclass, field
from typing import Any, Literal

from llavakit.text.conversation import Medium

Place = Literal["before", "after", "drawn"]


class Dropped(Exception):
    """An item gives no row: the filter's name, and what it found."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(f"{reason}: {found}")
        self.reason, self.found = reason, found


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Draft:
    """A conversation about the item's media. With `rejected` its last answer is the better of two."""

    turns: tuple[Turn, ...]
    rejected: str | None = None
    media: tuple[Medium, ...] | None = None  # instead of the item's own
    where: Place = "before"  # the media, of the first question; drawn as LLaVA draws it
    extra: dict[str, Any] = field(default_factory=dict)  # fields of the row

    @property
    def said(self) -> str:
        """What a writer said, as one text."""
        return "\n".join(f"{turn.question}\n{turn.answer}" for turn in self.turns)

    @property
    def answers(self) -> str:
        """The answers as one text."""
        return "\n".join(turn.answer for turn in self.turns)
