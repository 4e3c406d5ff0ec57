"""easy-vqa: 9,673 questions about 1,000 small pictures, out of a package; needs no files.

`easy-vqa.shuffled` and `easy-vqa.blind` (docs/eval.md) say what is scored there without looking.
"""

from pathlib import Path

from llavakit.eval.benchmark import Benchmark, Question, Rules, each
from llavakit.eval.easy_vqa import EasyVqa, is_right
from llavakit.text.conversation import user


def read_easy_vqa(_: Path) -> list[Question]:
    """The test questions of the package, as they are."""
    return [
        Question(
            f"{question.image.stem}-{number}", user(question.text, [question.image]).parts, question.answer,
            group="open" if question.is_open else "yes_no", chance=0.0 if question.is_open else 0.5,
        )
        for number, question in enumerate(EasyVqa("test").all())
    ]  # fmt: skip


def point(answer: str, question: Question) -> float | None:
    return float(is_right(answer, question.reference)) if answer.strip() else None


BENCHMARKS = {
    "easy-vqa": Benchmark(
        "easy-vqa test", "none: the package easy-vqa has them", read_easy_vqa, {"ours": Rules(each(point))},
        max_tokens=8, built_in=True,
    ),
}  # fmt: skip
