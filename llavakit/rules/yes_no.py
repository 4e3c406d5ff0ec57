"""Answers that say yes or no (POPE, MME), and the figures made of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from llavakit.rules.short_answers import PERIOD_VLMEVALKIT, strip_punctuation

YesNo = Literal["yes", "no"]
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def first_sentence(text: str) -> YesNo:
    """POPE's own rule: "No", "no" or "not" as a word of the first sentence, else yes. "NO" is a yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def bare_word(text: str) -> YesNo | None:
    """lmms-eval's POPE: the answer is the word, and nothing else."""
    word = text.lower().strip()
    if word == "yes":
        return "yes"
    return "no" if word == "no" else None


def either_word(text: str) -> YesNo | None:
    """VLMEvalKit: one of the words is there, and the other is not."""
    words = set(strip_punctuation(text.lower(), period=PERIOD_VLMEVALKIT).split())
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def first_letters(text: str) -> YesNo | None:
    """lmms-eval's MME: "yes" or "no" within the first four letters, or the letter alone."""
    text = text.lower().strip().replace(".", "")
    start = text[:4]
    if "yes" in start or text == "y":
        return "yes"
    return "no" if "no" in start or text == "n" else None


POPE_RULES: dict[str, Callable[[str], YesNo | None]] = {
    "official": first_sentence, "lmms": bare_word, "vlmevalkit": either_word,
}  # fmt: skip
MME_RULES: dict[str, Callable[[str], YesNo | None]] = {"lmms": first_letters, "vlmevalkit": either_word}


def detection_figures(
    said: Sequence[YesNo | None], truth: Sequence[YesNo], *, as_lmms: bool = False
) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of "yes", and the share of yes. What was not read is wrong.

    `as_lmms`: recall leaves out what was not read, and the share is that of the references.
    """
    both = list(zip(said, truth, strict=True))
    hits = sum(one == other for one, other in both)
    true_yes = sum(one == other == "yes" for one, other in both)
    said_yes = sum(one == "yes" for one in said)
    missed = sum(other == "yes" and (one == "no" if as_lmms else one != "yes") for one, other in both)
    precision = true_yes / said_yes if said_yes else 0.0
    recall = true_yes / (true_yes + missed) if true_yes + missed else 0.0
    counted: Sequence[YesNo | None] = truth if as_lmms else said
    return {
        "accuracy": hits / len(both) if both else 0.0,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": sum(each == "yes" for each in counted) / len(both) if both else 0.0,
    }


def mme_total(rows: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """MME's points of every category, 200 at most: accuracy plus the share of pictures with both answers right.

    `rows` are (category, picture, 1.0 or 0.0), two questions a picture. A chance between 0 and 1 gives what is
    expected.
    """
    pictures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for category, picture, right in rows:
        pictures[category][picture].append(right)
    points = {}
    for category, each in pictures.items():
        both = [100 * sum(scores) / len(scores) + 100 * math.prod(scores) for scores in each.values()]
        points[category] = sum(both) / len(both)
    return points
