"""Answers that are numbers, or may be: ChartQA, MMMU's open questions, MathVista."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llavakit.rules.edits import edit_distance

TOLERANCE = 0.05  # ChartQA (arXiv 2203.10244): within five per cent
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed(answer: str, reference: str) -> float:
    """ChartQA: numbers within five per cent ("5%" is 0.05), other answers without case. 0 needs its own text."""
    said, truth = _number(answer), _number(reference)
    if said is not None and truth:
        return float(abs(said - truth) / abs(truth) <= TOLERANCE)
    return float(answer.lower() == reference.lower())


def relaxed_stripped(answer: str, reference: str) -> float:
    """VLMEvalKit's ChartQA: outer blanks do not count."""
    return relaxed(answer.strip(), reference)


CHART_RULES = {"lmms": relaxed, "vlmevalkit": relaxed_stripped}


def _normal(text: str) -> list[str | float]:
    """A number to two decimals, or the text in lower case; a single letter must not match inside words."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_answers(answer: str) -> list[str | float]:
    """What an answer to an open question of MMMU may mean: the ends of its key sentences, and their numbers."""
    text = answer.strip().strip(".").lower()
    # In lower case no sentence begins with a capital, so only line breaks part sentences: as published.
    sentences = re.split(r"\.\s(?=[A-Z])|\n", text)
    keys = []
    for index, sentence in enumerate(sentences):
        marks = INDICATORS + (("=",) if index == len(sentences) - 1 else ())
        shortest = ""
        for end in (sentence.split(mark)[-1].strip() for mark in marks if mark in sentence):
            if not shortest or len(end) < len(shortest):  # an empty end makes room for the next: as published
                shortest = end
        if shortest and shortest not in list(":,.!?;'"):
            keys.append(shortest)
    keys = keys or [text]
    numbers = [n for key in keys for found in (WITH_COMMAS, SCIENTIFIC, SIMPLE) for n in found.findall(key)]
    return list(dict.fromkeys(meaning for each in keys + numbers for meaning in _normal(each)))


def mmmu_open(answer: str, references: Sequence[str] | str) -> float:
    """MMMU's open questions: a number is one of the references, or a reference stands in what was said."""
    given = [references] if isinstance(references, str) else references
    wanted = [meaning for reference in given for meaning in _normal(reference)]
    return float(
        any(
            said in wanted
            if isinstance(said, float)
            else any(isinstance(w, str) and w in said for w in wanted)
            for said in open_answers(answer)
        )
    )


def mmmu_open_lmms(answer: str, references: Sequence[str] | str) -> float:
    """lmms-eval at the golden cases' commit: it compares single characters, so no open question is ever right."""
    return 0.0


MMMU_OPEN_RULES = {"official": mmmu_open, "lmms": mmmu_open_lmms}


def mathvista_normal(answer: str, question: Mapping[str, Any]) -> str | None:
    """MathVista's normal form of an extracted answer, as lmms-eval computes it; None: it has none.

    A multiple-choice answer always becomes an option, the nearest by edit distance if need be, an empty one too.
    """
    if question["question_type"] == "multi_choice":
        choices, text = list(question["choices"]), answer.strip()
        letter = re.search(r"\(([a-zA-Z])\)", text)
        text = letter[1].upper() if letter else text
        index = ord(text) - ord("A") if len(text) == 1 else -1
        if 0 <= index < len(choices):
            return str(choices[index])
        return str(min(choices, key=lambda choice: edit_distance(text, choice)))
    try:
        if question["answer_type"] == "integer":
            return str(int(float(answer)))
        if question["answer_type"] == "float":
            return str(round(float(answer), int(question["precision"])))
    except (ValueError, OverflowError):
        return None
    return answer


def mathvista(answer: str, question: Mapping[str, Any]) -> float:
    """Whether the normal form is the reference's text."""
    return float(str(mathvista_normal(answer, question)).strip() == str(question["answer"]).strip())
