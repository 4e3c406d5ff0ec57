"""All benchmarks by the name on the command line."""

from llavakit.eval.benchmark import Benchmark
from llavakit.eval.tasks import (
    choices,
    descriptions,
    easy_vqa,
    hallucination,
    judged_answers,
    judged_chats,
    judged_videos,
    medical,
    reasoning,
    servers,
    several_pictures,
    short_answers,
    videos,
    yes_no,
)

BENCHMARKS: dict[str, Benchmark] = {
    **easy_vqa.BENCHMARKS,
    **short_answers.BENCHMARKS,
    **yes_no.BENCHMARKS,
    **choices.BENCHMARKS,
    **descriptions.BENCHMARKS,
    **hallucination.BENCHMARKS,
    **reasoning.BENCHMARKS,
    **several_pictures.BENCHMARKS,
    **medical.BENCHMARKS,
    **videos.BENCHMARKS,
    **servers.BENCHMARKS,
}
JUDGED: dict[str, Benchmark] = {
    **judged_chats.BENCHMARKS,
    **judged_answers.BENCHMARKS,
    **judged_videos.BENCHMARKS,
}  # a judge scores these
