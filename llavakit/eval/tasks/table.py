"""All benchmarks by the name on the command line."""

from llavakit.eval.benchmark import Benchmark
from llavakit.eval.tasks import choices, descriptions, short_answers, yes_no

BENCHMARKS: dict[str, Benchmark] = {
    **short_answers.BENCHMARKS,
    **yes_no.BENCHMARKS,
    **choices.BENCHMARKS,
    **descriptions.BENCHMARKS,
}
