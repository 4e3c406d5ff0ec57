"""What a judge said: a rating, a score, a winner. Ours take the last verdict and never put a number in its place.

The rules of other harnesses stand beside them for comparison; what they would draw at random is None here.
"""

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from llavakit.rules.claims import boxed_answer

Number = int | float
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LABELLED = re.compile(
    r"(?i)(?:score|rating|give|grade|points?|verdict)\b[^\d\n-]{0,24}(-?\d+(?:\.\d+)?)(?![\d.]*\d)"
)
JUDGEMENT = re.compile(
    r"(?i)(?:Overall Judgment|Therefore).*Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better"
)
RATING = re.compile(r"(?i)rating\s*:\s*(\d+(?:\.\d+)?)")
LABEL = re.compile(r"\[\[([AB])\]\]")
ARENA = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
BETTER = re.compile(
    r"(?i)better response\s*(?:is)?\s*:?[\s*]*\[?\s*(first|second|1|2|A|B|equally good|tie)\b"
    r"|\[(first|second|1|2|A|B|equally good|tie)\](?!\])|(?:responses|answers) are (equally good)"
)
NAMES = {"first": "first", "1": "first", "a": "first", "second": "second", "2": "second", "b": "second"}
FINAL = re.compile(r"(?i)final score\W{0,8}?(-?\d+(?:\.\d+)?)")
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
THOUGHT_BOXED = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
LONGEST = 10_000  # characters of a review that are read as a dictionary
MISSING = object()


def mmhal_official(text: str) -> int:
    """MMHal-Bench: the one `rating: s` for s from 0 to 6, a prefix counts; none or several are 0."""
    found = [score for score in range(7) if f"rating: {score}" in text.lower()]
    return found[0] if len(found) == 1 else 0


def mmhal(text: str) -> int | None:
    """The one rating from 0 to 6."""
    rating = one_rating(text, 0, 6)
    return None if rating is None else int(rating)


MMHAL_RULES: dict[str, Callable[[str], int | None]] = {"official": mmhal_official, "ours": mmhal}


def binary(text: str) -> int:
    """A verdict of exactly 0 or 1, alone or as its label says; anything else is not a 1."""
    bare = text.strip().strip("[].").lower()
    bare = re.sub(r"^(score|answer)\s*:\s*", "", bare)
    return int(bare == "1")


def binary_lmms(text: str) -> int:
    """lmms-eval: any "1" anywhere."""
    return int("1" in text)


BINARY_RULES: dict[str, Callable[[str], int]] = {"ours": binary, "lmms": binary_lmms}


def score(text: str, lowest: float, highest: float) -> Number | None:
    """The last labelled number within the range; a text that is one number is that number."""
    text = text.strip()
    found = LABELLED.findall(text) or ([text] if NUMBER.fullmatch(text) else [])
    inside = [float(number) for number in found if lowest <= float(number) <= highest]
    return _plain(inside[-1]) if inside else None


def score_lmms(text: str, lowest: float, highest: float) -> Number:
    """lmms-eval: the first number, cut to the range; the lowest where there is none."""
    found = NUMBER.search(text)
    return _plain(max(lowest, min(float(found[0]), highest)) if found else lowest)


SCORE_RULES: dict[str, Callable[[str, float, float], Number | None]] = {"ours": score, "lmms": score_lmms}


def _plain(number: float) -> Number:
    return int(number) if float(number).is_integer() else number  # "111..." may be infinite


def two_scores(text: str) -> tuple[float, float] | None:
    """LLaVA-Bench: two numbers, and nothing else, in the first line."""
    lines = text.strip().splitlines()
    words = lines[0].replace(",", " ").split() if lines else []
    if len(words) != 2 or not all(NUMBER.fullmatch(word) for word in words):
        return None
    return float(words[0]), float(words[1])


def two_scores_lmms(text: str) -> tuple[float, float]:
    """lmms-eval: the first two numbers of the first line, whatever they are; (-1, -1) where there are none."""
    lines = text.strip().split("\n")
    found = NUMBER.findall(lines[0].replace(",", " ").replace(";", " "))
    return (float(found[0]), float(found[1])) if len(found) >= 2 else (-1.0, -1.0)


COMPARATIVE_RULES: dict[str, Callable[[str], tuple[float, float] | None]] = {
    "ours": two_scores, "lmms": two_scores_lmms,
}  # fmt: skip


def better_answer(text: str) -> int | None:
    """VL-RewardBench: which answer is better, by its last verdict; 1 or 2."""
    found = JUDGEMENT.search(text.replace("\n", "").replace("*", ""))
    return int(found[1]) if found and found[1] in ("1", "2") else None


def better_answer_lmms(text: str) -> int | None:
    """lmms-eval: whatever number the verdict names. Without one it asks another model, then draws."""
    found = JUDGEMENT.search(text.replace("\n", "").replace("*", ""))
    return int(found[1]) if found else None


BETTER_RULES: dict[str, Callable[[str], int | None]] = {"ours": better_answer, "lmms": better_answer_lmms}


def last_label(text: str) -> str | None:
    """Multimodal RewardBench: the last [[A]] or [[B]]."""
    found = LABEL.findall(text)
    return found[-1] if found else None


def first_label(text: str) -> str | None:
    """Its official rule: A wherever [[A]] stands, else B."""
    return next((label for label in "AB" if f"[[{label}]]" in text), None)


LABEL_RULES: dict[str, Callable[[str], str | None]] = {"ours": last_label, "official": first_label}


def better_response(text: str) -> str | None:
    """LLaVA-Critic: the last verdict, whichever labels it has; "first", "second" or "tie"."""
    found = [next(filter(None, groups)) for groups in BETTER.findall(text)]
    return NAMES.get(found[-1].lower(), "tie") if found else None


def arena(text: str) -> str | None:
    """WildVision: the last of A>>B, A>B, A=B, B>A, B>>A."""
    found = ARENA.findall(text)
    return found[-1] if found else None


def final_score(text: str, lowest: float, highest: float) -> Number | None:
    """Detailed captions: the last "Final Score: n" within the range."""
    inside = [float(number) for number in FINAL.findall(text) if lowest <= float(number) <= highest]
    return _plain(inside[-1]) if inside else None


def one_rating(text: str, lowest: float, highest: float) -> Number | None:
    """The one whole rating within the range."""
    found = {float(number) for number in RATING.findall(text)}
    if len(found) != 1:
        return None
    [rating] = found
    return int(rating) if lowest <= rating <= highest and rating.is_integer() else None


def boxed(text: str) -> str | None:
    """LLaVA-Critic-R1: the last box, if it names answer 1 or 2."""
    found = BOXED.findall(text)
    return found[-1].strip() if found and found[-1].strip() in ("1", "2") else None


def _dictionary(text: str) -> dict[str, Any] | None:
    """The last {...} of a text that is a dictionary, as JSON or as Python writes it."""
    for found in reversed(re.findall(r"\{[^{}]*\}", text)):
        try:
            value = json.loads(found)
        except ValueError:
            value = _literal(found)
        if isinstance(value, dict):
            return value
    return None


def prediction(text: str) -> tuple[str, int] | None:
    """ActivityNet-QA and MSVD: {'pred': 'yes' or 'no', 'score': 0 to 5}, and nothing else in them."""
    said = _dictionary(text) or {}
    pred, points = str(said.get("pred", "")).strip().lower(), said.get("score", MISSING)
    if (
        pred not in ("yes", "no")
        or isinstance(points, bool)
        or not isinstance(points, int)
        or not 0 <= points <= 5
    ):
        return None
    return pred, points


def _literal(text: str) -> Any:
    """A value written as Python writes it; None for anything else."""
    try:
        return ast.literal_eval(text) if len(text) <= LONGEST else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def prediction_lmms(text: str) -> tuple[str, int] | None:
    """lmms-eval: between the first brace and the next closing one; "yes" or "no" anywhere in `pred`."""
    inside = text.split("{")[1].split("}")[0] if "{" in text else ""
    said = _literal("{" + inside + "}")
    try:
        points, pred = int(said["score"]), said["pred"]
        lower = pred.lower()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return "yes" if "yes" in lower else "no" if "no" in lower else pred, points


PREDICTION_RULES: dict[str, Callable[[str], tuple[str, int] | None]] = {
    "ours": prediction, "lmms": prediction_lmms,
}  # fmt: skip


def detail(text: str) -> Number | None:
    """Video detail description: {'score': 0 to 5}."""
    return dictionary_score(text, 0, 5)


def dictionary_score(text: str, lowest: float, highest: float) -> Number | None:
    """{'score': n} for n within the range."""
    points = (_dictionary(text) or {}).get("score")
    if isinstance(points, bool) or not isinstance(points, int | float):
        return None
    return points if lowest <= points <= highest else None


def dictionary_numbers(text: str, names: Sequence[str]) -> list[int] | None:
    """The whole numbers that a dictionary has by these names; None where one is missing."""
    said = _dictionary(text) or {}
    found = [said.get(name) for name in names]
    numbers = [number for number in found if isinstance(number, int) and not isinstance(number, bool)]
    return numbers if len(numbers) == len(names) else None


def detail_lmms(text: str) -> int:
    """lmms-eval: the whole review is the dictionary; what has no score has 0."""
    said = _literal(text)
    try:
        return int(said.get("score", 0))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return 0


DETAIL_RULES: dict[str, Callable[[str], Number | None]] = {"ours": detail, "lmms": detail_lmms}


def critic_r1(text: str, truth: str) -> float:
    """LLaVA-Critic-R1's reward: 0.9 for the verdict in the last box, 0.1 for thinking before a box.

    Blanks around <, > and / do not count.
    """
    text = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    said = boxed_answer(text)
    return 0.9 * float(bool(said) and said == truth) + 0.1 * float(THOUGHT_BOXED.fullmatch(text) is not None)
