"""The blind control: the same questions and answers about other pictures. What is found there needed no looking."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from llavakit.text.conversation import Conversation, Medium, Part, Text

Pair = tuple[Conversation, Conversation]


def swap_media(pairs: Sequence[Pair]) -> list[Pair | None]:
    """Every pair with the pictures and videos of another one, which has the same kinds in the same order.

    Pairs about the same pictures get the same others. None where a pair has no media, or no other has such.
    """
    kinds: dict[tuple[type, ...], list[tuple[Medium, ...]]] = defaultdict(list)
    for chosen, _ in pairs:
        alike = kinds[tuple(map(type, chosen.media))]
        if chosen.media not in alike:
            alike.append(chosen.media)
    other = {
        media: alike[(at + 1) % len(alike)]
        for alike in kinds.values()
        for at, media in enumerate(alike)
        if media and len(alike) > 1
    }
    return [
        (_with_media(chosen, other[chosen.media]), _with_media(rejected, other[chosen.media]))
        if chosen.media in other
        else None
        for chosen, rejected in pairs
    ]


def _with_media(talk: Conversation, media: tuple[Medium, ...]) -> Conversation:
    """The conversation about other pictures and videos, in the places of its own."""
    ahead = iter(media)

    def other(part: Part) -> Part:
        return part if isinstance(part, Text) else next(ahead)

    return Conversation(
        tuple(replace(message, parts=tuple(map(other, message.parts))) for message in talk.messages)
    )
