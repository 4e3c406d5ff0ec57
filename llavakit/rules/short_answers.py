"""Short answers against ten people's (VQAv2, OK-VQA, TextVQA, VizWiz) and against one (GQA)."""

import re
import string
from collections.abc import Callable, Sequence

from llavakit.rules.edits import edit_distance

ARTICLES = {"a", "an", "the"}
NUMBERS = dict(
    zip(
        ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("0", *map(str, range(11))),
        strict=True,
    )
)
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(
    r"(?!<=\d)\.(?!\d)"
)  # the first group is a published slip: it never matches; kept, as it counts
PERIOD_VLMEVALKIT = re.compile(r"(?<!\d)\.(?!\d)")  # without the slip: the period of "12." stays
PERIODS = 32  # another published slip: a flag, given in the place of how many to take away
DIGIT_COMMA = re.compile(r"\d,\d")
DIGIT_COMMAS = re.compile(r"\d,+\d")  # lmms-eval's
AGREEING = 3  # people who must have said it for a full score

# Contractions without their apostrophe, as the published table spells them (it mends no others).
_NOT = (
    "aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt oughtnt shant "
    "shouldnt wasnt werent wont wouldnt"
)
_WOULD = "he I it she somebody someone something there they we who you"
_ENDINGS = {
    "ve": "could I might must not should what where who would we they you",
    "d": "he how it someone something there they where who you",
    "ll": "how it somebody someone something they what who why you",
    "s": "he how somebody someone that there what when where who why",
    "re": "there they what why you",
}
CONTRACTIONS = {
    **{word: f"{word[:-1]}'t" for word in _NOT.split()},
    **{
        word + ending: f"{word}'{ending}"
        for ending, words in _ENDINGS.items()
        for word in words.split()
    },
    "Im": "I'm", "let's": "let's", "maam": "ma'am", "oclock": "o'clock", "she's": "she's", "twas": "'twas",
    "yall": "y'all", "somebody'd": "somebodyd", "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
    **{
        spelt: f"{word}'d've"
        for word in _WOULD.split()
        for spelt in (f"{word}d've", f"{word}'dve")
    },
    **{
        spelt: f"{word}n't've"
        for word in ("could", "had", "might", "should", "would")
        for spelt in (f"{word}nt've", f"{word}n'tve")
    },
}  # fmt: skip


def strip_punctuation(
    text: str, *, period: re.Pattern[str] = PERIOD, comma: re.Pattern[str] = DIGIT_COMMA
) -> str:
    """Punctuation away, or a blank in its place, by the published rule, which looks at the whole text."""
    out, has_number = text, comma.search(text) is not None
    for sign in PUNCTUATION:
        joins = sign + " " in text or " " + sign in text or has_number
        out = out.replace(sign, "" if joins else " ")
    return period.sub("", out, count=PERIODS)


def strip_articles(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophe."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """VQAv2's normal form, as lmms-eval has it."""
    return strip_articles(strip_punctuation(one_line(text), comma=DIGIT_COMMAS))


def normalise_vlmevalkit(text: str) -> str:
    """VLMEvalKit's, which keeps the period behind a number."""
    return strip_articles(strip_punctuation(one_line(text), period=PERIOD_VLMEVALKIT))


def normalise_m4c(text: str) -> str:
    """That of M4C and EvalAI (TextVQA): a possessive stands apart, commas and question marks go first."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return strip_articles(strip_punctuation(one_line(text)))


def agreement(answer: str, people: Sequence[str]) -> float:
    """Mean over the people of min(1, others who said it / 3): leave-one-out, as the VQA evaluation has it."""
    if not people:
        return 0.0
    said = sum(person == answer for person in people)
    scores = [min(1.0, (said - (person == answer)) / AGREEING) for person in people]
    return sum(scores) / len(scores)


def vqa_official(answer: str, people: Sequence[str]) -> float:
    """VQAv2 and OK-VQA: nothing is normalised where all people say the same."""
    answer, people = one_line(answer), [one_line(person) for person in people]
    if len(set(people)) > 1:
        answer = strip_articles(strip_punctuation(answer))
        people = [strip_articles(strip_punctuation(person)) for person in people]
    return agreement(answer, people)


def vqa_normalised(answer: str, people: Sequence[str]) -> float:
    """lmms-eval's VQAv2: always normalised."""
    return agreement(normalise(answer), [normalise(person) for person in people])


def vqa_vlmevalkit(answer: str, people: Sequence[str]) -> float:
    """VLMEvalKit: always normalised, in a way of its own."""
    return agreement(normalise_vlmevalkit(answer), [normalise_vlmevalkit(person) for person in people])


def vqa_m4c(answer: str, people: Sequence[str]) -> float:
    """TextVQA and VizWiz of LLaVA and lmms-eval."""
    return agreement(normalise_m4c(answer), [normalise_m4c(person) for person in people])


VQA_RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "official_vqav2": vqa_official,
    "lmms_vqav2": vqa_normalised,
    "llava_textvqa": vqa_m4c,
    "lmms_textvqa": vqa_m4c,
    "vlmevalkit_textvqa": vqa_vlmevalkit,
}


def exact_match(answer: str, reference: str) -> float:
    """GQA by lmms-eval: without case and punctuation; outer blanks count."""
    table = str.maketrans("", "", string.punctuation)
    return float(answer.lower().translate(table) == reference.lower().translate(table))


def anls(answer: str, references: Sequence[str]) -> float:
    """DocVQA, InfoVQA: 1 - edit distance / length of the nearest reference; below one half it is 0.

    The length is that of the raw text, blanks included, as lmms-eval and VLMEvalKit take it.
    """
    return _nearest([_similarity(answer, each, raw=True) for each in references])


def anls_stripped(answer: str, references: Sequence[str]) -> float:
    """ANLS over the stripped text (LLaVA's ST-VQA evaluator)."""
    return _nearest([_similarity(answer, each, raw=False) for each in references])


ANLS_RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "lmms": anls, "vlmevalkit": anls, "mmf_stvqa": anls_stripped,
}  # fmt: skip


def _similarity(answer: str, reference: str, *, raw: bool) -> float:
    if raw:
        one, other = (" ".join(text.strip().lower().split()) for text in (answer, reference))
        length = max(len(answer.upper()), len(reference.upper()))
    else:
        one, other = answer.lower().strip(), reference.lower().strip()
        length = max(len(one), len(other))
    return 1 - edit_distance(one, other) / length if length else 1.0


def _nearest(similarities: list[float]) -> float:
    best = max(similarities, default=0.0)
    return best if best >= 0.5 else 0.0


FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def contains(answer: str, references: Sequence[str], *, formula: bool = False) -> float:
    """OCRBench: one of the references stands in the answer, without case; of formulas, without blanks."""

    def plain(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if formula else text.lower()

    return float(any(plain(reference) in plain(answer) for reference in references))


def contains_folded(answer: str, references: Sequence[str], *, formula: bool = False) -> float:
    """OCRBench by lmms-eval: full-width signs count as the plain ones, but for formulas."""
    if formula:
        return contains(answer, references, formula=True)
    return contains(answer.translate(FULL_WIDTH), [each.translate(FULL_WIDTH) for each in references])
