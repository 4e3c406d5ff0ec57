"""The measurement of the chat after an edit: its edits put on the canvas what it says they do."""

from collections.abc import Sequence

import numpy as np

from benchmarks.studio_chat import Pair, measure
from llavakit.engine.responder import GREEDY, Answer
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation
from tests.studio.http.served import Scripted, png

SHAPES = {"circle": ("red", (220, 30, 30)), "rectangle": ("blue", (30, 40, 220))}


class Seeing(Scripted):
    """Sees shapes by their colours, and speaks of the largest."""

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        turn = conversations[0].messages[-1]
        picture = next(each for each in reversed(conversations[0].messages) if each.images).images[-1].source
        sizes = {
            shape: int((np.abs(np.asarray(picture, int) - rgb).max(2) < 60).sum())
            for shape, (_, rgb) in SHAPES.items()
        }
        there = {shape: SHAPES[shape][0] for shape, size in sizes.items() if size > 40}
        shape = max(there, key=sizes.__getitem__)
        return [Answer(shape if "what shape" in turn.text else there[shape], "stop")]


def two_shapes() -> Pair:
    pixels = np.full((64, 64, 3), 225, np.uint8)
    y, x = np.mgrid[:64, :64]
    pixels[(x - 15) ** 2 + (y - 20) ** 2 < 81] = SHAPES["circle"][1]
    pixels[30:56, 34:60] = SHAPES["rectangle"][1]
    return Pair(png(pixels), ((6, 11, 25, 30), (34, 30, 60, 56)), (("circle", "red"), ("rectangle", "blue")))


def test_who_sees_is_right_after_each_edit_and_wrong_before():
    figures = measure(Seeing(), [two_shapes()]).figures()
    assert figures == {
        "taken away": [1, 1], "taken away, shown before": [0.5, 0.5],
        "added": [1, 1], "added, shown before": [0, 0],
    }  # fmt: skip
