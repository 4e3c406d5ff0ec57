"""easy-vqa: questions about shapes with one right answer each, out of a package that carries the pictures."""

import importlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavakit.core.errors import ConfigError


@dataclass(frozen=True)
class Question:
    """A question about an image with its one right answer."""

    image: Path
    text: str
    answer: str

    @property
    def is_open(self) -> bool:
        """Whether it must be named; the rest is answered by yes or no."""
        return self.answer not in ("yes", "no")


class EasyVqa:
    """One split (`train` or `test`) of easy-vqa: where its pictures are, and its questions by picture.

    The PyPI package (MIT) carries 4,000 training and 1,000 test pictures with 38,575 and 9,673 questions.
    """

    def __init__(self, split: str) -> None:
        try:
            package: Any = importlib.import_module("easy_vqa")
        except ImportError:
            raise ConfigError("easy-vqa is a package of its own: pip install 'llavakit[demo]'") from None
        self.folder = Path(package.__file__).parent / "data" / split / "images"
        texts, answers, pictures = package.easy_vqa.read_questions(f"data/{split}/questions.json")
        self.questions: dict[int, list[Question]] = defaultdict(list)
        for text, answer, picture in zip(texts, answers, pictures, strict=True):
            self.questions[picture].append(Question(self.picture(picture), text, answer))

    def picture(self, number: int) -> Path:
        return self.folder / f"{number}.png"

    def all(self, pictures: int | None = None) -> list[Question]:
        """The questions of the first `pictures` pictures, those about one picture together."""
        chosen = sorted(self.questions)[:pictures]
        return [question for picture in chosen for question in self.questions[picture]]

    def open_questions(self, pictures: int | None = None) -> list[Question]:
        """Those that are not answered by yes or no: what color, what shape."""
        return [question for question in self.all(pictures) if question.is_open]


def is_right(answer: str, truth: str) -> bool:
    """Exact match after case, outer blanks and a final period are taken away."""
    return answer.strip().rstrip(".").lower() == truth.lower()
