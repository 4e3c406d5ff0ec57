"""easy-vqa as ordinary LLaVA records: 64 px pictures of one coloured shape, questions with one-word answers.

The PyPI package (MIT) carries 4,000 training and 1,000 test pictures with 38,575 and 9,673 questions.
"""

import importlib
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError
from llavakit.core.files import write_text
from llavakit.eval.vqa import Question

COLOURS = ("black", "gray", "red", "blue", "brown", "yellow", "teal", "green")
SHAPES = ("circle", "rectangle", "triangle")


class EasyVqa:
    """One split (`train` or `test`) of the package: where its pictures are, and its questions by picture."""

    def __init__(self, split: str) -> None:
        try:
            package: Any = importlib.import_module("easy_vqa")
        except ImportError:
            raise ConfigError("the demo needs the package easy-vqa: pip install 'llavakit[demo]'") from None
        self.folder = Path(package.__file__).parent / "data" / split / "images"
        texts, answers, pictures = package.easy_vqa.read_questions(f"data/{split}/questions.json")
        self.questions: dict[int, list[Question]] = defaultdict(list)
        for text, answer, picture in zip(texts, answers, pictures, strict=True):
            self.questions[picture].append(Question(self.folder / f"{picture}.png", text, answer))

    def all(self, pictures: int | None = None) -> list[Question]:
        """The questions of the first `pictures` pictures, those about one picture together."""
        chosen = sorted(self.questions)[:pictures]
        return [question for picture in chosen for question in self.questions[picture]]


def write_captions(data: EasyVqa, path: Path) -> None:
    """Stage-1 records: `a teal triangle`, put together from what an image's own questions and answers say."""
    rows = []
    for picture, questions in sorted(data.questions.items()):
        words = " ".join(f"{q.text} {q.answer}" for q in questions if q.is_open).replace("?", "").split()
        colour = next((word for word in words if word in COLOURS), None)
        shape = next((word for word in words if word in SHAPES), "shape")
        caption = f"a {colour} {shape}" if colour else f"a {shape}"
        rows.append(_record(picture, [("Describe the image briefly.", caption)]))
    write_text(path, json.dumps(rows, indent=1))


def write_questions(
    data: EasyVqa, path: Path, *, records: int, per_record: int, open_share: float, seed: int
) -> None:
    """Stage-2 records: `per_record` questions about one picture, of which about `open_share` are open.

    Pictures come round evenly. Questions are drawn without repetition within a record. Three quarters of the
    packaged questions are yes/no, most of which the question's text alone gives away; a model learns to look
    from the open ones.
    """
    dice = random.Random(seed)
    rows: list[dict[str, Any]] = []
    order: list[int] = []
    while len(rows) < records:
        if not order:
            order = sorted(data.questions)
            dice.shuffle(order)
        picture = order.pop()
        named = [question for question in data.questions[picture] if question.is_open]
        closed = [question for question in data.questions[picture] if not question.is_open]
        dice.shuffle(named)
        dice.shuffle(closed)
        want = sum(dice.random() < open_share for _ in range(per_record))
        chosen = (named[:want] + closed)[:per_record]
        dice.shuffle(chosen)
        rows.append(_record(picture, [(question.text, question.answer) for question in chosen]))
    write_text(path, json.dumps(rows, indent=1))


def _record(picture: int, turns: list[tuple[str, str]]) -> dict[str, Any]:
    talk = []
    for number, (question, answer) in enumerate(turns):
        talk.append({"from": "human", "value": ("" if number else "<image>\n") + question})
        talk.append({"from": "gpt", "value": answer})
    return {"id": f"easy-vqa-{picture}", "image": f"{picture}.png", "conversations": talk}
