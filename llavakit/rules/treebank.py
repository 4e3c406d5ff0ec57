"""A caption's tokens as COCO's evaluation cuts them: those of the Penn Treebank, without punctuation.

The official tokenizer is Stanford's, in Java. These rules were found by asking it what it makes of captions; its
answers are in `tests/rules/test_treebank.py`. As there, the longest match counts, of equal ones the first.
"""

import re
from collections.abc import Iterable

# What is taken out again. The official list has round brackets in capitals, but the tokens are in lower case.
DROPPED = {"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", ";", "…", *"’‘‛“”„«»–—―"}
WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$",
    "¢": "cents",
    # words that are two
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me",
    "lemme": "lem me",
}  # fmt: skip
FRACTIONS = str.maketrans({"½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "})
# Words that keep their period, in either case; and some that do so as names only.
SHORT = (
    r"mr|mrs|ms|messrs|drs?|profs?|gen|col|lt|sgt|capt|maj|adm|pvt|cpl|insp|rev|gov|sen|rep|pres|hon|det|jr|sr|esq|"
    r"ph\.d|ste?|ave|blvd|rd|ct|sq|bldg|mt|bros|inc|cos?|corp|ltd|plc|pty|pte|bhd|dept|assn|univ|intl|natl|mfg|"
    r"elec|sys|invt|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|ft|est|ext|tel|etc|"
    r"al|seq|vs|cf|alex|wm|jos|ala|ariz|calif|colo|conn|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|"
    r"tenn|va|vt|wis|wyo"
)
NAMES = "Mass|Wash|Miss|Ark|Ill|La|Pa|Ore|Tex|Del"
APOS = "['’]"
LETTER, ALNUM = r"[^\W\d_]", r"[^\W_]"
CLITIC = rf"{APOS}(?i:[sdm]|re|ve|ll)(?![A-Za-z])|[Nn][`'’‘][Tt][A-Za-z]*"  # of she's and isn't
WORD = rf"{LETTER}{ALNUM}*"
PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"  # of red-hot/cold
RULES = tuple(
    re.compile(rule)
    for rule in (
        rf"{WORD}(?:[.?!]{WORD})*",  # a.k.a, www.example.com
        rf"{ALNUM}+(?:_{ALNUM}+)*",
        rf"{ALNUM}+(?:-{ALNUM}+)*",  # 3-year-old
        r"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z0-9]+|(?:[A-Za-z]\.)+))+",  # 1,000-foot, U.S.-based
        rf"{PART}(?:/{PART}){{1,2}}",  # and/or, 12/25/2012
        r"[+-]?(?:\d*(?:[.,:]\d+)+|\d+)",
        r"(?:[A-Za-z]\.)+|[A-Za-z]+\.(?=,)",
        rf"(?i:{SHORT})\.|(?:{NAMES})\.|[Nn]o\.(?=\s*\d)",
        rf"[DLOdlo]{APOS}{LETTER}{ALNUM}+|[YDLydl]{APOS}(?={LETTER})",  # o'clock, d'oh; y' all
        rf"(?i:ma{APOS}am|c{APOS}mon|n?e{APOS}er|s{APOS}mores?|ol{APOS})",
        CLITIC,
        rf"{APOS}n{APOS}|{APOS}n(?!\S)|{APOS}(?i:em|cause|till?)(?!{ALNUM})|{APOS}\d\ds|'t(?=is\b|was\b)",
        r"[A-Z]+(?:[+&][A-Z]+)+|C\+\+|[CF]#|[A-Z]*\$",
        r"@[A-Za-z_]\w*|#[A-Za-z]+",
        r"\w[\w.]*@\w+(?:\.\w+)*|(?i:https?://|www\.)[^\s\"<>]*[^\s\"<>.,!?;:)']",
        r"</?[A-Za-z][^<>]*>",
        r"[:;=]['-]?[()\[\]DPpO3](?!\w)|\(\d{3}\) ?\d{3}-\d{4}",
        r"[!?]{2,}|\*+|_+|\S",
    )
)
NOT = re.compile(r"(?<=[A-Za-z])(?=[Nn][`'’‘][Tt])")  # is n't
OUTSIDE = re.compile(r"[^\u0000-\uffff]|₹")  # unknown to it, as emojis are


def tokenize(caption: str) -> str:
    """The Penn Treebank's tokens in lower case, without punctuation, joined by blanks."""
    tokens: list[str] = []
    text = NOT.sub(" ", OUTSIDE.sub(" ", caption.translate(FRACTIONS))).strip()
    at = 0
    while at < len(text):
        found = max((match[0] for rule in RULES if (match := rule.match(text, at))), key=len, default="")
        tokens += _written(found).split()
        at += len(found) or 1  # a blank
    return without_punctuation(tokens)


def without_punctuation(tokens: Iterable[str]) -> str:
    """Tokens without those that COCO's evaluation takes out, joined by blanks."""
    return " ".join(token for token in tokens if token not in DROPPED and set(token) not in ({"-"}, {"."}))


def _written(token: str) -> str:
    """A token as the official tokenizer prints it."""
    token = token.lower()
    if token[:1] in (":", ";", "=", "("):  # a face, or a telephone number
        return "".join(WRITTEN[sign] if sign in "()" else sign for sign in token)
    if re.fullmatch(CLITIC, token):
        return token.replace("’", "'").replace("‘", "`")
    return WRITTEN.get(token, token)
