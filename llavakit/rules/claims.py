"""What an answer claims, read strictly, for rewards: whoever claims two things has guessed.

And LLaVA-RLHF's symbolic terms as they were published, which read beginnings only and can be gamed.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from llavakit.rules.short_answers import exact_match, strip_punctuation

ANSWER_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
BOX = "\\boxed{"
# A letter at the start of a line with a sign behind it or nothing else, or after "answer is" and its kin.
LETTER = re.compile(
    r"^[ \t]*\(?([A-Z])(?:[).:,]|\)?[ \t]*$)|\b(?i:answer|option|choice)(?:\s+is)?:?\s*[(*]*([A-Z])\b",
    re.MULTILINE,
)


def tagged_answer(text: str) -> str:
    """What stands between the last <answer> tags; empty without them."""
    found = ANSWER_TAGS.findall(text)
    return found[-1].strip() if found else ""


def boxed_answer(text: str) -> str:
    """What stands in the last \\boxed{...}, whose braces must close; empty without one."""
    start = text.rfind(BOX)
    if start < 0:
        return ""
    depth, first = 1, start + len(BOX)
    for at in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[first:at].strip()
    return ""


def claimed_letters(text: str, options: Mapping[str, str] | None = None) -> frozenset[str]:
    """The letters that a text claims to be right (of the options, if known). An option's text is its letter."""
    for letter, option in (options or {}).items():
        if exact_match(text.strip(), option.strip()):
            return frozenset({letter})
    found = frozenset(first or second for first, second in LETTER.findall(text))
    return found & options.keys() if options else found


def claimed_yes_no(text: str) -> frozenset[str]:
    """Which of yes and no are words of a text."""
    return frozenset({"yes", "no"} & set(strip_punctuation(text.lower()).split()))


def named_options(options: object) -> dict[str, str]:
    """Options by letter, as records have them: a list, or already so; anything else is none."""
    if isinstance(options, Mapping):
        return {str(letter): str(text) for letter, text in options.items()}
    if isinstance(options, Sequence) and not isinstance(options, str):
        return dict(zip(ascii_uppercase, map(str, options), strict=False))
    return {}


def has_format(text: str, style: str) -> bool:
    """Whether a text has a style: think_answer, think_boxed, answer or boxed. Linear in its length.

    Around tags there are blanks only; a box stands anywhere in what it is asked of.
    """
    rest = text.strip()
    if style.startswith("think_"):
        end = rest.find("</think>")
        if not rest.startswith("<think>") or end < 0 or "<think>" in rest[1:]:
            return False
        rest = rest[end + len("</think>") :].strip()
    if style.endswith("boxed"):
        return rest.count(BOX) == 1 and bool(boxed_answer(rest))
    whole = rest.startswith("<answer>") and rest.endswith("</answer>")
    return whole and rest.count("<answer>") == rest.count("</answer>") == 1


def llava_rlhf_choice(text: str, caption_type: int) -> float:
    """LLaVA-RLHF: 1 for an answer that begins with the right letter and a period, or names it as correct."""
    if not 2 <= caption_type <= 5:
        return 0.0
    letter = "ABCD"[caption_type - 2]
    return float(text.strip().startswith(f"{letter}.") or f"correct option is {letter}." in text)


def llava_rlhf_yes_no(text: str, caption_type: int) -> float:
    """LLaVA-RLHF: half a point where No is right, won or lost by the first word; nothing where Yes is."""
    said = text.strip()
    if caption_type != 6:
        return 0.0
    return 0.5 if said.startswith("No") else -0.5 if said.startswith("Yes") else 0.0
