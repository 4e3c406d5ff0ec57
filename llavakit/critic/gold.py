"""The gold set: cases whose truth is plain, judged before every run. A judge that fails them is not listened to.

The built-in one is drawn: shapes of one colour, and answers that are right or wrong about them.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import PIL.Image
from PIL import ImageDraw

from llavakit.core.errors import ConfigError, RemoteError
from llavakit.critic.formats import SEVERAL
from llavakit.critic.judge import LOST, Judge, Judgement, label_of
from llavakit.critic.run import asks_of
from llavakit.data.cases import Case
from llavakit.rules.agreement import sign
from llavakit.rules.means import mean
from llavakit.text.conversation import Image

SIDE = 64  # pixels
COLOURS = ("red", "green", "blue", "black", "orange", "purple")
BAR = 0.6


def drawn_cases(answers: int) -> list[Case]:
    """Six pictures with a right and a wrong answer: as pairs (to rank, too), or as twelve cases of one answer."""
    cases = []
    for number, colour in enumerate(COLOURS):
        shape = ("circle", "rectangle")[number % 2]
        right = f"The {shape} is {colour}."
        wrong = f"The {shape} is {COLOURS[(number + 1) % len(COLOURS)]}."
        both = (right, wrong) if number % 2 else (wrong, right)
        case = Case(
            f"gold-{number}", f"What color is the {shape}?", (_draw(shape, colour),), both,
            reference=right, context=f"One {colour} {shape} on a white ground.", label=-1.0 if number % 2 else 1.0,
            ranking="AB" if number % 2 else "BA",
        )  # fmt: skip
        cases += _apart(case, right) if answers == 1 else [case]
    return cases


def _apart(case: Case, right: str) -> list[Case]:
    """One case for each answer; the right one has the higher label."""
    return [
        replace(case, id=f"{case.id}-{at}", answers=(text,), label=float(text == right), ranking="")
        for at, text in enumerate(case.answers)
    ]


def _draw(shape: str, colour: str) -> Image:
    picture = PIL.Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    box = (SIDE // 6, SIDE // 4, SIDE * 5 // 6, SIDE * 3 // 4)
    if shape == "circle":
        draw.ellipse((SIDE // 4, box[1], SIDE * 3 // 4, box[3]), fill=colour)
    else:
        draw.rectangle(box, fill=colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Image(file.getvalue())


def agreement(judge: Judge, cases: Sequence[Case]) -> float:
    """Of pairs the share of right verdicts, both orders, and so of rankings. Of single answers the share of pairs
    told apart rightly.

    Only cases with a label count, and only single answers with different ones. What was not read is wrong.
    ConfigError where nothing can be compared.
    """
    ranks = judge.format.answers == SEVERAL
    known = [case for case in cases if (case.ranking if ranks else label_of(case) is not None)]
    found: list[Judgement] = []
    for _, came in judge.judge(asks_of(known, both=True)):
        if came.problem in LOST:
            raise RemoteError(f"the gold set was not judged: {came.said}")
        found.append(came)
    values = [(label_of(came.ask.case) or 0.0, came.value) for came in found]
    if ranks:
        right = [came.ranking == came.ask.case.ranking for came in found]
    elif judge.format.answers == 2:
        right = [value is not None and sign(value) == sign(label) for label, value in values]
    else:
        right = [
            one is not None and two is not None and sign(one - two) == sign(a - b)
            for (a, one), (b, two) in combinations(values, 2)
            if a != b
        ]
    if not right:
        raise ConfigError("the gold set has no labels to compare with")
    return mean([float(each) for each in right])


def check_gold(judge: Judge, cases: Sequence[Case], bar: float) -> float:
    """The judge's agreement with the gold set. ConfigError, before anything is judged, below the bar."""
    found = agreement(judge, cases)
    if found < bar:
        raise ConfigError(
            f"the judge agrees with {found:.2f} of the gold set, less than --bar {bar:g}: nothing was"
            " judged. Its answers may be in another format (--format), or it cannot judge"
        )
    return found
