"""Tokenized captions against references: CIDEr-D, BLEU and ROUGE-L as COCO's evaluation computes them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

N = 4  # longest n-gram
SIGMA = 6.0  # CIDEr-D's penalty of lengths that differ
BETA = 1.2  # ROUGE-L's weight of recall
SMALL, TINY = 1e-9, 1e-15  # BLEU's, against division by zero

Grams = Counter[tuple[str, ...]]


def _grams(caption: str) -> Grams:
    words = caption.split()
    return Counter(tuple(words[at : at + n]) for n in range(1, N + 1) for at in range(len(words) - n + 1))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D (arXiv 1411.5726) of each tokenized caption, times ten, with the references' own document counts."""
    cooked = [[_grams(reference) for reference in each] for each in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for each in cooked:
        documents.update(set().union(*each))
    log_images = math.log(len(references)) if references else 0.0

    def vector(grams: Grams) -> list[dict[tuple[str, ...], float]]:
        out: list[dict[tuple[str, ...], float]] = [{} for _ in range(N)]
        for gram, count in grams.items():
            out[len(gram) - 1][gram] = count * (log_images - math.log(max(1, documents[gram])))
        return out

    scores = []
    for caption, each in zip(captions, cooked, strict=True):
        said = _grams(caption)
        pairs = [_similarity(vector(said), vector(truth), _length(said) - _length(truth)) for truth in each]
        scores.append(10 * sum(pairs) / (N * len(pairs)))
    return scores


def _length(grams: Grams) -> int:
    """Pairs of words: what the published code takes for the length."""
    return sum(count for gram, count in grams.items() if len(gram) == 2)


Vectors = Sequence[Mapping[tuple[str, ...], float]]


def _similarity(said: Vectors, truth: Vectors, delta: int) -> float:
    """The cosine of every n-gram length, counts clipped to the reference's, and less for another length; summed."""
    penalty = math.exp(-(delta**2) / (2 * SIGMA**2))
    total = 0.0
    for one, other in zip(said, truth, strict=True):
        dot = sum(min(weight, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, weight in one.items())
        norm = math.hypot(*one.values()) * math.hypot(*other.values())
        total += penalty * (dot / norm if norm else dot)
    return total


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to 4 of a corpus of tokenized captions, against the reference nearest in length."""
    correct, guessed = [0] * N, [0] * N
    length = wanted = 0
    for caption, each in zip(captions, references, strict=True):
        said, size = _grams(caption), len(caption.split())
        most: Grams = Counter()
        for reference in each:
            most |= _grams(reference)
        for gram, count in said.items():
            correct[len(gram) - 1] += min(count, most[gram])
        guessed = [total + max(0, size - n) for n, total in enumerate(guessed)]
        length += size
        lengths = [len(reference.split()) for reference in each]
        wanted += min(lengths, key=lambda other: (abs(other - size), other))
    ratio = (length + TINY) / (wanted + SMALL)
    short = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(N):
        product *= (correct[n] + TINY) / (guessed[n] + SMALL)
        scores.append(short * product ** (1 / (n + 1)))
    return scores


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """ROUGE-L of a tokenized caption: the best precision and the best recall of any reference."""
    said = caption.split(" ")
    truths = [reference.split(" ") for reference in references]
    common = [_common(said, truth) for truth in truths]
    precision = max(length / len(said) for length in common)
    recall = max(length / len(truth) for length, truth in zip(common, truths, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l_f1(text: str, reference: str) -> float:
    """ROUGE-L as the harmonic mean of precision and recall, of words parted by blanks (LLaVA-Interleave Bench)."""
    said, truth = text.split(), reference.split()
    common = _common(said, truth)
    return 2 * common / (len(said) + len(truth)) if common else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for at, theirs in enumerate(other, 1):
            before, row[at] = row[at], before + 1 if word == theirs else max(row[at], row[at - 1])
    return row[-1]


def caption_figures(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float | list[float]]:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L of a corpus, of captions as given: tokenize them for COCO's figures."""
    ciders = cider(captions, references)
    rouges = [rouge_l(caption, each) for caption, each in zip(captions, references, strict=True)]
    count = max(1, len(ciders))
    return {"CIDEr": sum(ciders) / count, "Bleu": bleu(captions, references), "ROUGE_L": sum(rouges) / count}
