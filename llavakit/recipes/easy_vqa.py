"""easy-vqa as ordinary LLaVA records: 64 px pictures of one coloured shape, questions with one-word answers."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.files import write_text
from llavakit.eval.easy_vqa import EasyVqa, Question

COLOURS = ("black", "gray", "red", "blue", "brown", "yellow", "teal", "green")
SHAPES = ("circle", "rectangle", "triangle")


def captions_of(data: EasyVqa) -> dict[int, str]:
    """`a teal triangle` by picture, put together from what a picture's own questions and answers say.

    Pictures whose questions do not tell both colour and shape have none.
    """
    found = {}
    for picture, questions in sorted(data.questions.items()):
        words = " ".join(f"{q.text} {q.answer}" for q in questions if q.is_open).replace("?", "").split()
        colour = next((word for word in words if word in COLOURS), None)
        shape = next((word for word in words if word in SHAPES), None)
        if colour and shape:
            found[picture] = f"a {colour} {shape}"
    return found


def write_captions(data: EasyVqa, path: Path) -> None:
    """Stage-1 records."""
    rows = [_record(picture, [("", caption)]) for picture, caption in captions_of(data).items()]
    write_text(path, json.dumps(rows, indent=1))


def colour_questions(data: EasyVqa) -> list[Question]:
    """What color is ...? about pictures that have a caption."""
    known = captions_of(data)
    return [each for picture in known for each in data.questions[picture] if each.answer in COLOURS]


def write_colour_questions(data: EasyVqa, path: Path) -> None:
    """A record for every picture with such questions, the caption beside them."""
    rows = []
    for picture, caption in captions_of(data).items():
        turns = [(each.text, each.answer) for each in data.questions[picture] if each.answer in COLOURS]
        if turns:
            rows.append(_record(picture, turns) | {"captions": [caption]})
    write_text(path, json.dumps(rows, indent=1))


@dataclass(frozen=True)
class Phase:
    """A stretch of stage-2 records: how many, and the shares of the three kinds of question in it."""

    records: int
    open: float  # what color ..., what shape ...
    present: float  # is there a red shape?
    absent: float  # is there no red shape?
    balanced: bool = True  # every (question, answer) of a kind equally often, else as often as packaged

    def share(self, kind: str) -> float:
        return {"open": self.open, "present": self.present, "absent": self.absent}[kind]


def kind_of(question: Question) -> str:
    """`open`, `present` or `absent`."""
    if question.is_open:
        return "open"
    return "absent" if {"no", "not"} & set(question.text.split()) else "present"


def write_questions(
    data: EasyVqa, path: Path, *, phases: Sequence[Phase], per_record: int, seed: int
) -> None:
    """Stage-2 records, phase after phase: `per_record` different questions about one picture each.

    As packaged, the text of a yes/no question alone gives away its answer four times out of five, and a model that
    may guess does not learn to look: for that, a phase is `balanced`.
    """
    dice = random.Random(seed)
    seen = Counter((question.text, question.answer) for question in data.all())
    pairs = Counter(kind_of(Question(path, text, answer)) for text, answer in seen)
    total = Counter(kind_of(question) for question in data.all())
    pictures = sorted(data.questions)
    rows: list[dict[str, Any]] = []
    for phase in phases:

        def rate(question: Question, phase: Phase = phase) -> float:
            kind = kind_of(question)
            one_of = pairs[kind] * seen[question.text, question.answer] if phase.balanced else total[kind]
            return phase.share(kind) / one_of

        totals = [sum(rate(question) for question in data.questions[picture]) for picture in pictures]
        for picture in dice.choices(pictures, totals, k=phase.records):
            # A weighted draw without repetition: those that come first, at these rates.
            arrivals = sorted(
                (dice.expovariate(rate(question)), question.text, question.answer)
                for question in data.questions[picture]
                if rate(question) > 0
            )
            rows.append(_record(picture, [(text, answer) for _, text, answer in arrivals[:per_record]]))
    write_text(path, json.dumps(rows, indent=1))


def _record(picture: int, turns: list[tuple[str, str]]) -> dict[str, Any]:
    talk = []
    for number, (question, answer) in enumerate(turns):
        talk.append({"from": "human", "value": ("" if number else "<image>\n") + question})
        talk.append({"from": "gpt", "value": answer})
    return {"id": f"easy-vqa-{picture}", "image": f"{picture}.png", "conversations": talk}
