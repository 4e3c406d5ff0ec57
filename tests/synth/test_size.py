"""What a long run keeps in memory, and the benchmark that measures a hundred thousand rows."""

import random
import tracemalloc

from benchmarks.endpoint import served
from benchmarks.synth import measure, reply
from llavakit.core.journal import continue_journal
from llavakit.engine.responder import Answer
from llavakit.rules.shingles import SimilarTexts
from llavakit.synth.answers import Answers

ROWS = 800


def test_doubles_and_answers_take_less_than_a_kilobyte_a_row(tmp_path):
    dice = random.Random(0)
    words = [str(number) for number in range(3000)]
    with continue_journal(tmp_path / "a.answers") as journal:
        texts, answers = SimilarTexts(0.8), Answers(journal)
        tracemalloc.start()
        try:
            for number in range(ROWS):
                assert texts.meet(" ".join(dice.choices(words, k=25))) is None
                key = random.Random(number).randbytes(16).hex()
                answers.add(key, Answer("said " * 100, "stop", 10, 10))
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert kept < 1000 * ROWS
        assert answers.find(random.Random(7).randbytes(16).hex()).prompt_tokens == 10
        assert answers.find("0" * 32) is None


def test_the_benchmark_makes_the_rows_that_it_counts(tmp_path):
    with served(reply) as url:
        found = measure(120, tmp_path, url)
    assert found["tenth: rows"] == 12 and found["all: rows"] == 120
    assert len((tmp_path / "data.jsonl").read_text().splitlines()) == 120
