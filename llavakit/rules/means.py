"""Scores of items made into scores of a benchmark, where that is not the plain mean."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def of_groups(rows: Iterable[tuple[str, float]]) -> float:
    """The mean over groups of their means: VL-RewardBench's macro, LLaVA-Interleave's mean of data sets."""
    groups: dict[str, list[float]] = defaultdict(list)
    for group, score in rows:
        groups[group].append(score)
    return mean([mean(scores) for scores in groups.values()])


def ratio_of_means(pairs: Sequence[tuple[float, float]]) -> float:
    """LLaVA-Bench: 100 x sum of the model's points / sum of the reference's. Pairs are (reference, model).

    Judgements that failed (a point below zero) are left out; who calls counts them.
    """
    good = [pair for pair in pairs if min(pair) >= 0]
    reference = sum(pair[0] for pair in good)
    return 100 * sum(pair[1] for pair in good) / reference if reference else 0.0


def ratio_of_rounded_means(pairs: Sequence[tuple[float, float]]) -> float:
    """As LLaVA prints it: both means rounded to three decimals before, the figure to one after."""
    if not pairs:
        return 0.0
    reference, model = (round(mean(points), 3) for points in zip(*pairs, strict=True))
    return round(model / reference * 100, 1) if reference else 0.0  # in this order: it rounds


def ratio_of_means_lmms(pairs: Sequence[tuple[float, float]]) -> float:
    """lmms-eval's: as LLaVA's, with a failed judgement of (-1, -1) averaged in."""
    return ratio_of_rounded_means([pair for pair in pairs if -999 not in pair])


def mean_of_ratios(pairs: Sequence[tuple[float, float]]) -> float:
    """LLaVA-Med's habit: the mean of every question's ratio, in per cent."""
    return 100 * mean([model / reference for reference, model in pairs if reference > 0 and model >= 0])


LLAVA_BENCH_RULES: dict[str, Callable[[Sequence[tuple[float, float]]], float]] = {
    "llava": ratio_of_rounded_means, "ours": ratio_of_means, "lmms": ratio_of_means_lmms,
    "llava_med_style": mean_of_ratios,
}  # fmt: skip
