"""All benchmarks by the name on the command line."""

from llavakit.eval.benchmark import Benchmark
from llavakit.eval.tasks import choices, descriptions, judged_answers, judged_chats, short_answers, yes_no

BENCHMARKS: dict[str, Benchmark] = {
    **short_answers.BENCHMARKS,
    **yes_no.BENCHMARKS,
    **choices.BENCHMARKS,
    **descriptions.BENCHMARKS,
}
JUDGED: dict[str, Benchmark] = {
    **judged_chats.BENCHMARKS,
    **judged_answers.BENCHMARKS,
}  # a judge scores these
