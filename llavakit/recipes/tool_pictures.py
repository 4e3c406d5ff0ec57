"""Questions that need a tool: pictures with many small shapes of easy-vqa on them, and what is true of each.

At the demo's 64 pixels a side the shapes are three or four pixels wide: too small to name, too many to count.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import PIL.Image

from llavakit.agent.lessons import Lesson
from llavakit.eval.easy_vqa import EasyVqa, Question
from llavakit.text.calls import Call

SIDE = 448  # pixels of a picture
CELL = 56  # of the grid that keeps shapes apart
SHAPE = (18, 34)  # longest side of a shape
APART = 60  # sum of differences of RGB from the ground by which a pixel belongs to a shape
COUNTED = ("black", "gray", "red", "blue", "yellow", "green")  # those of easy-vqa that tools call the same
GUESS = "a guess: "

Kind = Literal["count", "count one color", "zoom", "colors", "plain"]
KINDS: tuple[Kind, ...] = ("count", "count one color", "zoom", "colors", "plain")


@dataclass(frozen=True)
class Placed:
    """A shape on a picture: where (pixels), and what the package says of it."""

    box: tuple[int, int, int, int]
    color: str
    shape: str


@dataclass
class Shapes:
    """The shapes of one split that are known by color and shape, cut out when they are used."""

    data: EasyVqa
    known: list[tuple[int, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, questions in sorted(self.data.questions.items()):
            said = {"color" if "color" in q.text else "shape": q.answer for q in questions if q.is_open}
            if len(said) == 2:
                self.known.append((number, said["color"], said["shape"]))

    def cut(self, number: int, longest: int) -> PIL.Image.Image:
        """The shape of a picture, with the rest transparent, scaled to this longest side."""
        opened = PIL.Image.open(self.data.folder / f"{number}.png").convert("RGB")
        pixels = np.asarray(opened)
        inside = np.abs(pixels.astype(int) - pixels[0, 0]).sum(axis=2) > APART
        alpha = PIL.Image.fromarray((inside * 255).astype(np.uint8))
        opened.putalpha(alpha)
        part = opened.crop(alpha.getbbox())
        scale = longest / max(part.size)
        return part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))


def compose(
    shapes: Shapes, count: int, dice: Random, path: Path, colors: Sequence[str] | None = None
) -> list[Placed]:
    """A picture of `count` small shapes (of these colors), no two of which touch; where they are."""
    known = [one for one in shapes.known if colors is None or one[1] in colors]
    ground = tuple(dice.randint(236, 255) for _ in range(3))
    canvas = PIL.Image.new("RGB", (SIDE, SIDE), ground)
    cells = dice.sample([(x, y) for x in range(0, SIDE, CELL) for y in range(0, SIDE, CELL)], count)
    placed = []
    for left, top in cells:
        number, color, shape = dice.choice(known)
        part = shapes.cut(number, dice.randint(*SHAPE))
        x = left + 4 + dice.randint(0, CELL - 8 - part.width)
        y = top + 4 + dice.randint(0, CELL - 8 - part.height)
        canvas.paste(part, (x, y), part)
        placed.append(Placed((x, y, x + part.width, y + part.height), color, shape))
    canvas.save(path)
    return placed


def make_lesson(kind: Kind, shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    """A question of a kind about a new picture at `path` (plain: about one of the package), with its answer."""
    return MAKERS[kind](shapes, dice, path, name)


def _count(shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    placed = compose(shapes, dice.randint(3, 14), dice, path)
    asked = dice.choice(("How many shapes are there?", "Count the shapes."))
    return Lesson(
        name,
        asked,
        (path,),
        str(len(placed)),
        Call("count_shapes", "{}"),
        "I count the shapes.",
        "I have the count.",
    )


def _count_color(shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    placed = compose(shapes, dice.randint(4, 14), dice, path, COUNTED)
    there = Counter(one.color for one in placed)
    color = dice.choice(sorted(there))
    call = Call("count_shapes", f'{{"color": "{color}"}}')
    asked = f"How many {color} shapes are there?"
    return Lesson(
        name, asked, (path,), str(there[color]), call, f"I count what is {color}.", "I have the count."
    )


def _zoom(shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    one, around = _marked(shapes, dice, path)
    asked, answer = dice.choice(
        (("What shape is in the box?", one.shape), ("What color is the shape in the box?", one.color))
    )
    call = Call("zoom", f'{{"box": {_parts(around)}}}')
    return Lesson(
        name, asked, (path,), answer, call, "I look closer.", "Now I see it.", boxes=(_pixels(around),)
    )


def _colors(shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    one, around = _marked(shapes, dice, path, COUNTED)
    call = Call("colors", f'{{"box": {_parts(around)}}}')
    return Lesson(
        name, "Name the colors in the box.", (path,), f"white and {one.color}", call, "I measure the colors.",
        "I have the colors.", boxes=(_pixels(around),),
    )  # fmt: skip


def _plain(shapes: Shapes, dice: Random, path: Path, name: str) -> Lesson:
    questions = shapes.data.questions[dice.choice(shapes.known)[0]]
    chosen: Question = dice.choice([question for question in questions if question.is_open])
    return Lesson(name, chosen.text.capitalize(), (chosen.image,), chosen.answer, concluded="I see it.")


def refused(lesson: Lesson) -> Lesson:
    """The same lesson where the tool gives an error: the model says that it guesses."""
    return replace(lesson, answer=f"{GUESS}{lesson.answer}", concluded="The tool failed.", fails=True)


MAKERS: dict[Kind, Callable[[Shapes, Random, Path, str], Lesson]] = {
    "count": _count, "count one color": _count_color, "zoom": _zoom, "colors": _colors, "plain": _plain,
}  # fmt: skip


def _marked(
    shapes: Shapes, dice: Random, path: Path, colors: Sequence[str] | None = None
) -> tuple[Placed, tuple[int, int, int, int]]:
    """One shape (of these colors) of a new picture, and a square around it."""
    one = dice.choice(compose(shapes, dice.randint(6, 14), dice, path, colors))
    left, top, right, bottom = one.box
    side = min(round(max(right - left, bottom - top) * dice.uniform(1.25, 1.5)), CELL)
    x = min(max((left + right - side) // 2, 0), SIDE - side)
    y = min(max((top + bottom - side) // 2, 0), SIDE - side)
    return one, (x, y, x + side, y + side)


def _parts(box: tuple[int, int, int, int]) -> list[float]:
    """The box as the question tells it: parts of the picture, two digits."""
    return [round(number / SIDE, 2) for number in box]


def _pixels(box: tuple[int, int, int, int]) -> str:
    return ",".join(map(str, box))
