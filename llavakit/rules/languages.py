"""Which language a text is in, by its script and most frequent words: enough to see that a writer changed it."""

import re
import unicodedata
from collections import Counter

from llavakit.rules.shingles import words_of

FEWEST = 8  # words, or as many letters of scripts without blanks; shorter texts may be of any language
SCRIPTS = {
    "zh": ("CJK",), "ja": ("HIRAGANA", "KATAKANA"), "ko": ("HANGUL",), "ru": ("CYRILLIC",), "ar": ("ARABIC",),
    "el": ("GREEK",), "he": ("HEBREW",), "hi": ("DEVANAGARI",), "th": ("THAI",),
}  # fmt: skip
FREQUENT = {
    "en": "the of and a to in is it that with on are this there for at by as an be has from its which or",
    "de": "der die das und ist ein eine in mit auf zu den von dem es sich des im nicht sind einem auch an",
    "fr": "le la les de des et est un une dans en du sur avec il que qui au sont pas par ce elle se pour",
    "es": "el la los las de y es un una en que con del se por al para su está hay como lo más son",
    "it": "il la di e un una in che è con del della sono per si al da nel le gli lo non su sulla",
    "pt": "o a os as de e um uma em que com do da no na é para se por está dos ao mais são",
    "nl": "de het een en van in is op met te dat zijn aan er die voor niet ook door om bij wordt",
}
LATIN = {language: frozenset(words.split()) for language, words in FREQUENT.items()}
LANGUAGES = tuple(sorted((*SCRIPTS, *LATIN)))
LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str) -> str | None:
    """The language of a text; None where it is too short or does not say."""
    letters = LETTER.findall(text)
    kinds = Counter(unicodedata.name(letter, "?").split(" ")[0].split("-")[0] for letter in letters)
    if sum(kinds.values()) >= FEWEST:
        for language, scripts in (
            ("ja", SCRIPTS["ja"]),
            *SCRIPTS.items(),
        ):  # Japanese has Chinese letters too
            share = 0.15 if language == "ja" else 0.4
            if sum(kinds[script] for script in scripts) >= share * sum(kinds.values()):
                return language
    words = words_of(text)
    if len(words) < FEWEST:
        return None
    hits = {language: sum(word in frequent for word in words) for language, frequent in LATIN.items()}
    best, second = sorted(hits.values(), reverse=True)[:2]
    if best < 0.1 * len(words) or best == second:
        return None
    return max(hits, key=lambda language: hits[language])
