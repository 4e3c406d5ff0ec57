"""The letter of a multiple-choice answer, by the rules of those who publish scores. None: it cannot be read."""

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from llavakit.rules.short_answers import strip_punctuation

Options = Mapping[str, str]  # letter -> text
ENDS = ",.!?;:'"
# "my option" and "the best choice" are not among the published phrases.
PHRASES = (
    *(
        f"{before}answer is"
        for before in ("the ", "", "the correct ", "correct ", "the best ", "best ", "my ")
    ),
    *(f"{before}option is" for before in ("the correct ", "correct ", "the best ", "best ")),
    *(f"{before}choice is" for before in ("the ", "", "the correct ", "correct ", "my ")),
    *("i choose", "i select", "i pick", "정답은", "답은", "답:", "옵션", "答案是", "答案为", "选", "答えは"),
)
ANSWER_IS = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")
REFUSALS = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.",
    "I'm sorry, but without the image provided", "Cannot determine the answer",
)  # fmt: skip


def _trim(text: str, ends: str) -> str:
    """The signs taken off both ends one kind after the other, in this order, and a blank put on each side."""
    for sign in ends:
        text = text.strip(sign)
    return f" {text} "


def _last(text: str, found: Sequence[str], mark: Callable[[str], str]) -> str:
    """Of several letters the one that is named last; of those that are not named so, the first."""
    return max(found, key=lambda letter: text.rfind(mark(letter)))


def mmmu(answer: str, options: Options) -> str | None:
    """MMMU's own: (A), then A as a word, then an option's text in answers of over five words; the last one counts.

    Where it draws an option at random, this says None.
    """
    return _mmmu(answer, options, [lambda letter: f" {letter} "])


def mmmu_lmms(answer: str, options: Options) -> str | None:
    """lmms-eval's MMMU: a letter at the end of any word counts ("NASA " is A), then one before a period."""
    return _mmmu(answer, options, [lambda letter: f"{letter} ", lambda letter: f"{letter}."])


def _mmmu(answer: str, options: Options, marks: list[Callable[[str], str]]) -> str | None:
    text = _trim(answer, ENDS)
    found = [letter for letter in options if f"({letter})" in text]
    if found:
        return _last(text, found, lambda letter: f"({letter})")
    for mark in marks:
        found = [letter for letter in options if mark(letter) in text]
        if found:
            return _last(text, found, lambda letter: f" {letter} ")
    if len(text.split()) > 5:
        lower = text.lower()
        found = [letter for letter, option in options.items() if option.lower() in lower]
        if found:
            return _last(lower, found, lambda letter: options[letter].lower())
    return None


def ranked(answer: str, options: Options) -> str | None:
    """lmms-eval's shared reader (Video-MME and others): the strongest form wins, in it the last letter."""
    if not answer.strip():
        return None
    text = _trim(answer.strip(), ENDS + '"')
    bare = text.strip()
    found: list[tuple[int, int, str]] = []
    for letter in options:
        for rank, form in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, f"{letter} "),
        ):
            if form in text:
                found.append((rank, text.rfind(form), letter))
        for phrase in PHRASES:
            at = text.lower().find(phrase)
            at = text.find(letter, at + len(phrase)) if at >= 0 else -1
            if at >= 0:
                found.append((7, at, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in options if letter in text]
    return max(found, key=lambda each: each[:2])[2] if found else None


def vlmevalkit(answer: str, options: Options) -> str | None:
    """VLMEvalKit without a judge: one letter as a word among the last five, else one option's text.

    Its sign for "none of these" is Z, also where the model says it.
    """
    if any(refusal in answer for refusal in REFUSALS):
        return None
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return letters[0]
    if not letters and "Z" in words:
        return None
    said = ANSWER_IS.search(answer)
    if said and said[1].upper() in options:
        return said[1].upper()
    if len(answer.lower()) > 2 * sum(map(len, options.values())):
        return None
    texts = [letter for letter, option in options.items() if option.lower() in answer.lower()]
    return texts[0] if len(texts) == 1 else None


MMMU_RULES: dict[str, Callable[[str, Options], str | None]] = {
    "official": mmmu, "lmms": mmmu_lmms, "lmms_videomme": ranked, "vlmevalkit": vlmevalkit,
}  # fmt: skip


def mmbench_lmms(answer: str, options: Options) -> str | None:
    """lmms-eval's MMBench without a judge."""
    words = answer.split()
    for before, after in (
        ("", ""), ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""),
        (":", ","), (":", "."), (":", ")"), (":", ")."),
    ):  # fmt: skip
        found = [letter for letter in ascii_uppercase[:5] if f"{before}{letter}{after}" in words]
        if len(found) == 1 and not (before + after == "" and "A" in words and len(words) > 3):
            return found[0]
    texts = [letter for letter, option in options.items() if option.lower() in answer.lower()]
    return texts[0] if len(texts) == 1 else ranked(answer, options)


MMBENCH_RULES: dict[str, Callable[[str, Options], str | None]] = {
    "vlmevalkit_exact": vlmevalkit, "lmms_static": mmbench_lmms,
}  # fmt: skip


def circular(said: Sequence[str | None], truth: Sequence[str]) -> float:
    """MMBench's CircularEval: right only if every rotation of the options is answered rightly."""
    return float(list(said) == list(truth))


def science_qa(answer: str, num_options: int) -> str | None:
    """LLaVA's ScienceQA: a letter, "B. " and text, or "The answer is B." once; case counts."""
    letters = ascii_uppercase[:5]
    if answer in letters and len(answer) == 1:
        letter = answer
    elif len(answer) >= 3 and answer[0] in letters and answer[1:3] == ". ":
        letter = answer[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", answer)
        letter = found[0] if len(found) == 1 else ""
    return letter if letter and letter in letters[:num_options] else None


def science_qa_lmms(answer: str, num_options: int) -> str | None:
    """lmms-eval's ScienceQA: the letter in either case, or a capital before a period."""
    answer = answer.strip()
    letter = (
        answer.upper()
        if len(answer) == 1
        else answer[0]
        if answer[:1].isupper() and answer[1:2] == "."
        else ""
    )
    return letter if letter and letter in ascii_uppercase[:num_options] else None


SCIENCE_QA_RULES: dict[str, Callable[[str, int], str | None]] = {"llava": science_qa, "lmms": science_qa_lmms}


def first_character(answer: str) -> str | None:
    """SEED: the first character, in either case."""
    return answer.strip()[:1].upper() or None


def interleave(answer: str) -> str:
    """LLaVA-Interleave: "B. text" is B; else punctuation away, and a letter from A to E that stands alone."""
    start = re.match(r"(?i)([A-E])\.\s*(.+)$", answer.strip())
    if start:
        return start[1].upper()
    text = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    text = text.strip("'").strip('"').strip(")").strip("(").strip().lower()
    letter = re.search(r"(?i)\b([A-E])\b", text)
    return letter[1].upper() if letter else text
