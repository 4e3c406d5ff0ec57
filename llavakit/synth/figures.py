"""How varied rows are: figures of a sample that is drawn by the rows' names, so it is the same after a resume."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappush, heapreplace
from itertools import count
from random import Random
from typing import Any

import numpy as np

from llavakit.rules.shingles import overlap, words_of

MOST = 2000  # rows that figures are taken of
FOR_PEOPLE = 100  # rows that people look at
PAIRS = 500  # of answers, whose overlap is measured
OPENINGS = 8  # that are listed


class Sample:
    """So many rows of a stream, each as likely as any other: those whose names have the smallest digests."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._tie = most, count()
        self._heap: list[tuple[int, int, Any]] = []

    def add(self, name: str, row: Any) -> None:
        """Offer a row."""
        rank = -int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if len(self._heap) < self._most:
            heappush(self._heap, (rank, next(self._tie), row))
        elif rank > self._heap[0][0]:
            heapreplace(self._heap, (rank, next(self._tie), row))

    def rows(self, most: int | None = None) -> list[Any]:
        """The rows, or a smaller sample of them, in the order of the stream."""
        chosen = sorted(self._heap, key=lambda entry: entry[:2], reverse=True)[:most]
        return [row for _, _, row in sorted(chosen, key=lambda entry: entry[1])]


@dataclass(frozen=True)
class Diversity:
    """Figures of a sample of conversations."""

    rows: int
    words: float  # of an answer, mean
    words_p95: float
    distinct: tuple[float, float, float]  # share of different words, pairs and triples of words among all
    overlap: float  # of two answers of different rows, mean
    openings: Sequence[tuple[str, int]]  # first two words of questions, the most frequent
    num_openings: int


def diversity(talks: Sequence[Sequence[tuple[str, str]]]) -> Diversity | None:
    """The figures of rows given as (question, answer) turns; None for no row."""
    if not talks:
        return None
    turns = [turn for talk in talks for turn in talk]
    lengths = np.array([len(answer.split()) for _, answer in turns])
    words = [words_of(answer) for _, answer in turns]
    texts = ["\n".join(answer for _, answer in talk) for talk in talks]
    dice = Random(0)
    pairs = [dice.sample(range(len(texts)), 2) for _ in range(PAIRS if len(texts) > 1 else 0)]
    openings = Counter(" ".join(words_of(question)[:2]) for question, _ in turns)
    return Diversity(
        len(talks), float(lengths.mean()), float(np.percentile(lengths, 95)),
        (_distinct(words, 1), _distinct(words, 2), _distinct(words, 3)),
        float(np.mean([overlap(texts[a], texts[b]) for a, b in pairs])) if pairs else 0.0,
        openings.most_common(OPENINGS), len(openings),
    )  # fmt: skip


def _distinct(texts: Sequence[Sequence[str]], size: int) -> float:
    grams = [tuple(words[at : at + size]) for words in texts for at in range(len(words) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def turns_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) of every turn of a row of ours; of a pair the better answer."""
    talk = list(row["conversations"])
    if "output_1" in row and len(talk) % 2:
        talk.append(row["output_1"])
    asked = [turn["value"].replace("<image>", "").strip() for turn in talk[::2]]
    return list(zip(asked, [turn["value"] for turn in talk[1::2]], strict=True))
