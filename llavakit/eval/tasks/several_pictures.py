"""Questions about several pictures: LLaVA-Interleave Bench, MuirBench, Mantis-Eval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llavakit.data.layouts import (
    LETTER,
    Fields,
    check_letter,
    find_all,
    interleaved,
    lettered,
    listed,
    picture_in,
    pictures_in,
    read_rows,
    text_in,
    texts_in,
)
from llavakit.eval.benchmark import Benchmark, Figures, Points, Question, Rules, accuracy
from llavakit.eval.tasks.choices import ask, by_options
from llavakit.rules import captions, choices
from llavakit.rules.means import mean, of_groups
from llavakit.text.conversation import IMAGE_TOKEN, ImageSource

MOST = 512  # characters of an open answer that the interleave benchmark compares
# Its categories and the data sets in them.
CATEGORIES = {
    "spot the difference": ("Spot-the-Diff", "Birds-to-Words", "CLEVR-Change"),
    "image edit instruction": ("IEdit", "HQ-Edit", "MagicBrush"),
    "visual story telling": ("AESOP", "FlintstonesSV", "PororoSV", "VIST"),
    "visual cloze": ("COMICS_Dialogue", "RecipeQA_VisualCloze"),
    "text-rich": ("WebQA", "TQA", "OCR-VQA", "DocVQA"),
    "multi-image": (
        "MIT-States_StateCoherence", "MIT-States_PropertyCoherence", "VISION", "RecipeQA_ImageCoherence",
    ),
}  # fmt: skip
CATEGORY = {name: category for category, names in CATEGORIES.items() for name in names}
STARTS = re.compile(r"^\s*([A-Z])\.")
FINAL = ("final answer:", "the answer is", "answer:")
MANTIS_SHORT = (
    "Given the images, answer the following short answer vqa question:\nQ: {question}\nYou can first give your "
    'analysis, and then give your final answer as "Final Answer:"'
)


def numbered_pictures(row: Fields, folder: Path) -> list[ImageSource]:
    """The cells image_0, image_1 ... that hold something."""
    keys = sorted(
        (key for key in row if re.fullmatch(r"image_\d+", key) and row[key]), key=lambda key: int(key[6:])
    )
    return [picture_in(row, key, folder) for key in keys]


def read_interleave(folder: Path) -> list[Question]:
    """The Parquet files of the hub (image_0 ...), or the release's JSON (conversations, image, metadata)."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.json", "*.jsonl"):
        for row in read_rows(path):
            found.append(_interleave_row(row, path))
    return found


def _interleave_row(row: Fields, path: Path) -> Question:
    pictures: Sequence[ImageSource]
    if "conversations" in row:
        asked, said = (Fields(turn, path, row.line) for turn in row["conversations"][:2])
        about = Fields(row["metadata"], path, row.line)
        text, answer = text_in(asked, "value"), text_in(said, "value")
        kind, name = about["question_type"], text_in(about, "dataset")
        pictures = pictures_in(row, "image", path.parent)
    else:
        text, answer = text_in(row, "question"), text_in(row, "answer")
        kind, name = row["question_type"], text_in(row, "sub_task")
        pictures = numbered_pictures(row, path.parent)
    if kind not in ("multi-choice", "open-ended"):
        raise row.error(f"question_type {kind!r} is neither multi-choice nor open-ended")
    return Question(
        f"{path.stem}-{row['sample_id']}-{name}", interleaved(text, pictures), (kind, answer), group=name
    )


def interleave_point(answer: str, question: Question) -> float | None:
    """A choice by its letter; open answers by ROUGE-L with the reference, F1."""
    kind, reference = question.reference
    if not answer.strip():
        return None
    if kind == "multi-choice":
        said = choices.interleave(answer)
        right = choices.interleave(reference)
        # A reference that is a letter can only be met by a letter; anything else was not read.
        return None if len(right) == 1 and len(said) != 1 else float(said == right)
    return captions.rouge_l_f1(answer[:MOST], reference)


def interleave_figures(questions: Sequence[Question], points: Points, *, over_datasets: bool) -> Figures:
    """Every category and their mean. A category is the mean over its data sets (official) or samples (lmms)."""
    rows = [
        (CATEGORY.get(q.group, q.group), q.group, point or 0.0)
        for q, point in zip(questions, points, strict=True)
    ]
    figures = {}
    for category in dict.fromkeys(category for category, _, _ in rows):
        own = [(name, point) for each, name, point in rows if each == category]
        figures[category] = 100 * (of_groups(own) if over_datasets else mean([point for _, point in own]))
    return {"mean of categories": mean(list(figures.values())), **figures}


def each_point(questions: Sequence[Question], answers: Sequence[str]) -> Points:
    return [interleave_point(a, q) for q, a in zip(questions, answers, strict=True)]


def read_muirbench(folder: Path) -> list[Question]:
    """Pictures stand in questions and in options, where <image> is written."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl"):
        for row in read_rows(path):
            options = lettered(texts_in(row, "options"))
            text = f"{row['question']}\n{listed(options)}{LETTER}"
            parts = interleaved(text, pictures_in(row, "image_list", path.parent))
            letter = check_letter(row, row["answer"], options)
            shown = {letter: option.replace(IMAGE_TOKEN, "").strip() for letter, option in options.items()}
            found.append(ask(row["idx"], parts, letter, shown, str(row.get("task", ""))))
    return found


def letter_in_front(answer: str, options: choices.Options) -> str | None:
    """MuirBench by lmms-eval: the letter alone, in either case, or "B." in front."""
    found = STARTS.match(answer)
    said = found[1] if found else answer.strip().upper()
    return said if said in options else None


def read_mantis(folder: Path) -> list[Question]:
    """Mantis-Eval: choices, with the options in a list of marked texts, and short answers."""
    found = []
    for path in find_all(folder, "**/*.parquet", "*.jsonl", "*.json"):
        for row in read_rows(path):
            pictures = pictures_in(row, "images", path.parent)
            answer = text_in(row, "answer").strip("()\n ")
            if row["question_type"] == "short-answer":
                parts = interleaved(MANTIS_SHORT.format(question=row["question"]), pictures)
                found.append(Question(text_in(row, "id"), parts, answer, group="short-answer"))
                continue
            marked = texts_in(row, "options")
            text = f"{row['question']}{LETTER}\n" + "\n".join(marked)
            options = lettered([re.sub(r"^\(?[A-Z][.:)]\s*", "", option) for option in marked])
            letter = check_letter(row, answer[:1], options)
            found.append(
                ask(text_in(row, "id"), interleaved(text, pictures), letter, options, "multi-choice")
            )
    return found


def final_answer(answer: str) -> str:
    """What stands behind "Final Answer:", "the answer is" or "Answer:"."""
    lower = answer.lower()
    mark = next((mark for mark in FINAL if mark in lower), None)
    return answer[lower.index(mark) + len(mark) :].strip() if mark else answer


def mantis_letter(answer: str, options: choices.Options) -> str | None:
    """The first letter of the final answer, if it is an option's; else the option that is the whole answer."""
    first = next((sign.upper() for sign in final_answer(answer) if sign.isalpha()), "")
    if first in options:
        return first
    texts = [letter for letter, text in options.items() if text == answer.strip()]
    return texts[0] if texts else None


def mantis_points(questions: Sequence[Question], answers: Sequence[str]) -> Points:
    chosen = by_options(mantis_letter).judge(questions, answers)
    return [
        letter if q.options else same_words(final_answer(a), q.reference) if a.strip() else None
        for q, a, letter in zip(questions, answers, chosen, strict=True)
    ]


def same_words(answer: str, reference: str) -> float:
    return float(answer.lower() == reference.lower())


def interleave_rules(name: str) -> Rules:
    def figures(questions: Sequence[Question], points: Points, **_: Any) -> Figures:
        return interleave_figures(questions, points, over_datasets=name == "official")

    return Rules(each_point, figures)


BENCHMARKS = {
    "interleave": Benchmark(
        "LLaVA-Interleave Bench", "*.parquet with question, answer, sub_task, image_0 ...; or the release's JSON",
        read_interleave, {name: interleave_rules(name) for name in ("official", "lmms")}, max_tokens=128,
    ),
    "muirbench": Benchmark(
        "MuirBench", "*.parquet with idx, question, options, answer, image_list", read_muirbench,
        {
            "lmms": by_options(letter_in_front),
            "vlmevalkit": by_options(choices.vlmevalkit),
        },
    ),
    "mantis": Benchmark(
        "Mantis-Eval", "*.parquet with id, question_type, question, options, answer, images", read_mantis,
        {"lmms": Rules(mantis_points, accuracy)}, max_tokens=64,
    ),
}  # fmt: skip
