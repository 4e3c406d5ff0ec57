"""The same questions asked several times with other seeds: how much a score moves by luck alone."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev

from llavakit.eval.benchmark import Benchmark
from llavakit.eval.resample import headline
from llavakit.eval.score import Repeats, Verdict
from llavakit.rules.thinking import strip_thinking

SHORT = 32  # max_tokens of answers that can be voted on: two long texts are never the same


def sum_up(benchmark: Benchmark, rules: str, runs: Sequence[Sequence[Verdict]]) -> Repeats:
    """At least two repeats of one task."""
    _, chosen = benchmark.choose(rules)
    by_id = [{verdict.question.id: verdict for verdict in run} for run in runs]
    common = [name for name in by_id[0] if all(name in run for run in by_id)]
    questions = [by_id[0][name].question for name in common]
    points = [[run[name].point for name in common] for run in by_id]
    scores = [headline(chosen.aggregate(questions, each)) for each in points]
    best = [max(point or 0.0 for point in each) for each in zip(*points, strict=True)]
    majority = None
    if benchmark.max_tokens <= SHORT:
        votes = [vote([strip_thinking(run[name].given.answer) for run in by_id]) for name in common]
        majority = headline(chosen.aggregate(questions, chosen.judge(questions, votes)))
    return Repeats(
        tuple(scores), fmean(scores), stdev(scores), headline(chosen.aggregate(questions, best)), majority
    )


def vote(answers: Sequence[str]) -> str:
    """The answer said most often, case, outer blanks and a final period aside; the earlier one in a draw."""
    plain = [answer.strip().rstrip(".").lower() for answer in answers]
    most = Counter(plain).most_common(1)[0][0]  # in the order of their first, where equal
    return answers[plain.index(most)]
