"""Several answers ranked at once, as MLLM-as-a-Judge's batches are: read, compared with people's, and asked for."""

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError
from llavakit.critic.formats import OUTSIDE, RANKING, SEVERAL, UNREAD
from llavakit.critic.gold import check_gold, drawn_cases
from llavakit.critic.judge import Judge
from llavakit.critic.report import draw_report, read_report
from llavakit.critic.run import judge_file
from llavakit.data.cases import Case, read_cases
from llavakit.rules.rankings import last_ranking, ranking_distance, ranking_figures, reverse_letters
from tests import tiny
from tests.critic.scripted import ScriptedJudge
from tests.data.test_cases import written
from tests.serve.live import ScriptedWorker, served

ANSWER = re.compile(r"\[Answer of assistant ([A-Z])\]\n(.*?)\n\[End of answer", re.DOTALL)
ORDERS = ["CDAB", "ABCD", "BDCA", "DCBA", "ACBD"]


def rows(orders=ORDERS) -> list[dict]:
    """As published; an answer's text says at which place people put it."""
    return [
        {
            "id": 7, "instruction": f"Which {number}?", "image_path": "x.png",
            "original_dataset": f"set{number % 2}",
            "answers": [{"name": name, "answer": f"place {order.index(name)}"} for name in "ABCD"[: len(order)]],
            "human_answer": order,
        }
        for number, order in enumerate(orders)
    ]  # fmt: skip


def in_order(prompt, key=lambda said: said):
    """A judge that goes by what the answers say."""
    placed = sorted(ANSWER.findall(prompt), key=lambda found: key(found[1]))
    return "They differ. Rank: " + ", ".join(f"[[{letter}]]" for letter, _ in placed)


def judged(tmp_path, say, records):
    tiny.picture(tmp_path / "x.png")
    cases = read_cases(written(tmp_path, *records))
    outcome = judge_file(
        Judge(ScriptedJudge(say), RANKING),
        cases,
        tmp_path / "out.jsonl",
        who={"judge": "scripted"},
        both=False,
    )
    return outcome, read_report(tmp_path / "out.jsonl").figures["rankings"]


SAID = {
    "Judgement: Rank: [[A], [C], [D], [B]] }}": "ACDB",
    "[[C]], [[B]], [[A]], [[D]]Assistant C is best, [A] is worse": "CBAD",
    "1. [[B]]\n2. [[A]]\n3. [[C]]": "BAC",
    "[[C, A, B]]": "CAB",
    "First [[A]], [[B]]. No: [[B]] > [[A]]. A dog is there.": "BA",
    "[[A]] is the best, [[B]] the worst": None,
    "[[A]], [[A]], [[B]]": None,
    "[[B]], [[C]]": None,
    "Rank: ABCD": None,
}


@pytest.mark.parametrize("text", SAID)
def test_the_last_ranking_is_read(text):
    assert last_ranking(text) == SAID[text]


@given(st.text(alphabet="[]AB, xa1>", max_size=60))
def test_any_text_is_a_ranking_or_none(text):
    found = last_ranking(text)
    assert found in (None, "AB", "BA")


def test_a_long_text_is_read_in_no_time():
    assert last_ranking("[A" * 100_000) is None and last_ranking("[" * 200_000 + "[[A]], [[B]]") == "AB"


def test_distances_are_levenshteins_over_the_length():
    """By hand: one letter moved is a deletion and an insertion; all four turned round are four substitutions."""
    by_hand = {"CDAB": 0.0, "CDBA": 0.5, "DABC": 0.5, "BADC": 1.0, "ABCD": 1.0, "CBAD": 0.5}
    assert {said: ranking_distance(said, "CDAB") for said in by_hand} == by_hand
    assert all(reverse_letters(reverse_letters(each)) == each for each in map("".join, permutations("ABC")))
    assert reverse_letters("CABD") == "BDCA"
    figures = ranking_figures(["CDAB", None, "DCAB"], ["CDAB", "ABCD", "CDAB"], ["a", "a", "b"])
    assert figures == {
        "levenshtein": 0.25, "levenshtein, unread as 1": 0.5, "same": 1 / 3, "same best": 1 / 3,
        "by group: a": 0.0, "by group: b": 0.5,
    }  # fmt: skip


def test_the_oracle_has_distance_zero_and_its_opposite_the_largest(tmp_path):
    outcome, figures = judged(tmp_path, in_order, rows())
    assert [(row["value"], row["label"]) for row in outcome.rows] == [(order, order) for order in ORDERS]
    assert (outcome.failed, figures["levenshtein"], figures["same"], figures["same best"]) == (0, 0, 1, 1)
    (tmp_path / "out.jsonl").unlink()
    _, worst = judged(tmp_path, lambda prompt: in_order(prompt, lambda said: -int(said[-1])), rows())
    assert worst["levenshtein"] == 1 and worst["by group: set0"] == 1 and worst["same best"] == 0
    assert "rankings" in draw_report(read_report(tmp_path / "out.jsonl"))


def test_what_is_no_ranking_of_the_case_is_counted_and_is_no_score(tmp_path):
    said = iter(["[[A]], [[B]]", "I cannot say", "[[C]], [[D]], [[A]], [[B]]"])
    outcome, figures = judged(tmp_path, lambda _: next(said), rows(["CDAB"] * 3))
    assert outcome.problems == {"range": 1, "unread": 1} and outcome.failed == pytest.approx(2 / 3)
    assert figures["levenshtein"] == 0 and figures["levenshtein, unread as 1"] == pytest.approx(2 / 3)
    case = Case("a", "?", (), ("one", "two", "three"))
    assert RANKING.reading("[[A]], [[B]]", case) == OUTSIDE and RANKING.reading("", case) == UNREAD
    assert RANKING.reading("[[B]], [[A]], [[C]]", case).ranking == "BAC"


def test_a_judge_that_ranks_the_drawn_set_wrongly_is_refused():
    def truthful(prompt):
        return in_order(prompt, lambda said: not any(f"{word}." in said for word in right))

    right = [case.reference.split()[-1][:-1] for case in drawn_cases(SEVERAL)[:1]]
    first = drawn_cases(SEVERAL)[:1]
    assert check_gold(Judge(ScriptedJudge(truthful), RANKING), first, 1.0) == 1
    with pytest.raises(ConfigError, match=r"agrees with 0\.50 of the gold set"):
        check_gold(Judge(ScriptedJudge(lambda _: "[[A]], [[B]]"), RANKING), drawn_cases(SEVERAL), 0.6)


def test_the_command_ranks(run, tmp_path):
    tiny.picture(tmp_path / "x.png")
    path, out = written(tmp_path, *rows(["CDAB", "CDAB"])), tmp_path / "out.jsonl"
    with served(ScriptedWorker("[[C]], [[D]], [[B]], [[A]]")) as (url, _):
        code, said, err = run("judge", "rank", path, "--judge", url, "--out", out, "--gold", "none")
    assert (code, err) == (0, "") and "2 asked in" in said
    code, said, err = run("judge", "report", out)
    assert (code, err) == (0, "") and re.search(r"levenshtein +0\.500", said) and "same best" in said
    code, _, err = run(
        "judge", "pairwise", path, "--judge", "http://127.0.0.1:1", "--out", out, "--gold", "none"
    )
    assert code == 2 and "case '1' has 4 answers, not 2" in err
