"""Controls that say whether a benchmark's pictures are looked at: the same questions about others, or about none.

`TASK.shuffled` asks every question about another picture, `TASK.blind` about no picture; the references stay. What
a model scores there it scores without looking.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from llavakit.core.errors import DataError
from llavakit.eval.benchmark import Question
from llavakit.text.conversation import Medium, Text

T = TypeVar("T")


def derange(things: Sequence[T], seed: int = 0) -> dict[T, T]:
    """Every thing, all different, to another one: a rotation of a random order."""
    order = np.random.default_rng(seed).permutation(len(things))
    return {things[one]: things[other] for one, other in zip(order, np.roll(order, 1), strict=True)}


def shuffle_media(questions: Sequence[Question]) -> list[Question]:
    """Every picture and video becomes another one of its kind, the same wherever it is asked about."""
    media = list(dict.fromkeys(medium for question in questions for medium in question.conversation.media))
    other: dict[Medium, Medium] = {}
    for kind in dict.fromkeys(map(type, media)):
        same = [medium for medium in media if type(medium) is kind]
        if len(same) < 2:
            raise DataError("a single picture cannot be shuffled")
        other |= derange(same)
    return [
        replace(q, parts=tuple(part if isinstance(part, Text) else other[part] for part in q.parts))
        for q in questions
    ]


def without_media(questions: Sequence[Question]) -> list[Question]:
    """The words alone."""
    return [replace(q, parts=tuple(part for part in q.parts if isinstance(part, Text))) for q in questions]


CONTROLS: dict[str, Callable[[Sequence[Question]], list[Question]]] = {
    "shuffled": shuffle_media, "blind": without_media,
}  # fmt: skip
