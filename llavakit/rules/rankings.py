"""Rankings of answers, as their letters from best to worst: read out of a judge's words, compared with people's."""

import re
from collections.abc import Sequence
from string import ascii_uppercase as LETTERS

from llavakit.rules.agreement import Figures
from llavakit.rules.edits import edit_distance
from llavakit.rules.means import mean

# Letters in brackets, one behind the other: "[[C]], [[A]]", "[[C], [A]]", "[[C, A]]", "1. [[C]]\n2. [[A]]".
RUN = re.compile(r"\[(?:[\[\]\s,;:>.\d]|(?<![A-Za-z])[A-Z](?![A-Za-z]))*+")


def is_ranking(text: str, count: int) -> bool:
    """Whether it has each of the first `count` letters once, and nothing else."""
    return sorted(text) == list(LETTERS[:count])


def last_ranking(text: str) -> str | None:
    """MLLM-as-a-Judge: the last ranking that is said, of as many answers as it names."""
    runs = [run[: run.rfind("]") + 1] for run in RUN.findall(text)]  # what follows the last bracket is prose
    found = ["".join(filter(str.isalpha, run)) for run in runs]
    whole = [letters for letters in found if len(letters) > 1 and is_ranking(letters, len(letters))]
    return whole[-1] if whole else None


def reverse_letters(ranking: str) -> str:
    """The same ranking where the answers stand in the other order."""
    return "".join(LETTERS[len(ranking) - 1 - LETTERS.index(letter)] for letter in ranking)


def ranking_distance(said: str, given: str) -> float:
    """MLLM-as-a-Judge's figure for one batch, lower is better: Levenshtein's distance over the length, 0 to 1."""
    return edit_distance(said, given) / len(given)


def ranking_figures(said: Sequence[str | None], given: Sequence[str], groups: Sequence[str]) -> Figures:
    """Of rankings: the mean distance of those that were read, and with the unread ones as far away as can be.

    `same` and `same best` are shares of all of them; what was not read is neither. Where there are several groups,
    each has its distance, as MLLM-as-a-Judge tells it for every data set.
    """
    rows = list(zip(said, given, groups, strict=True))
    read = [(ranking_distance(one, other), group) for one, other, group in rows if one is not None]
    distances = [distance for distance, _ in read]
    figures = {
        "levenshtein": mean(distances) if distances else 1.0,
        "levenshtein, unread as 1": mean([*distances, *[1.0] * (len(rows) - len(read))]),
        "same": mean([float(one == other) for one, other, _ in rows]),
        "same best": mean([float(one is not None and one[0] == other[0]) for one, other, _ in rows]),
    }
    if len(set(groups)) > 1:
        for name in dict.fromkeys(group for _, group in read):
            mine = [distance for distance, group in read if group == name]
            figures[f"by group: {name or '(no group)'}"] = mean(mine)
    return figures
