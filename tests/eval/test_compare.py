"""Two runs against each other, against plain counting; repeats with seeds; files for servers; controls."""

import io
import json
import zipfile
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from llavakit.core.errors import ConfigError, DataError
from llavakit.engine.responder import Answer
from llavakit.eval import pages
from llavakit.eval.answers import Given
from llavakit.eval.benchmark import Question, accuracy
from llavakit.eval.compare import compare
from llavakit.eval.controls import shuffle_media, without_media
from llavakit.eval.plan import plan_tasks
from llavakit.eval.repeats import vote
from llavakit.eval.resample import gather, interval, redraw, swap
from llavakit.eval.run import INDEX, RESULTS, evaluate, rescore
from llavakit.eval.score import Verdict
from llavakit.eval.submission import as_csv, as_json, as_mapping, workbook
from llavakit.rules.flips import sign_test
from llavakit.text.conversation import Image, user
from tests.eval.layouts import written
from tests.eval.responders import Scripted, always
from tests.eval.test_run import WHO, start


def verdicts(points, pictures):
    return [
        Verdict(
            Question(str(n), user("?").parts, "x"),
            Given(str(n), "p", (picture,), f"x {point}", "stop"),
            point,
        )
        for n, (point, picture) in enumerate(zip(points, pictures, strict=True))
    ]


def slow_accuracy(questions, points):
    return accuracy(questions, points)


def test_single_questions_are_tested_as_mcnemar_does():
    before, after = [1.0] * 3 + [0.0] * 9 + [1.0] * 8, [0.0] * 3 + [1.0] * 9 + [1.0] * 8
    found = compare("t", "official", accuracy, verdicts(before, range(20)), verdicts(after, range(20)))
    assert found.test == "McNemar" and found.p == pytest.approx(binomtest(3, 12).pvalue)
    assert (found.first, found.second, found.gain) == pytest.approx((55, 85, 30)) and len(found.flips) == 12
    assert sum(flip.better for flip in found.flips) == 9
    assert [sign_test(k, 12 - k) for k in range(13)] == pytest.approx(
        [binomtest(k, 12).pvalue for k in range(13)]
    )
    assert sign_test(0, 0) == sign_test(50_000, 50_000) == 1.0
    assert sign_test(300, 400) == pytest.approx(binomtest(300, 700).pvalue)


def test_answers_about_one_picture_are_swapped_together():
    """p is the share of all swaps of pictures that differ as much: counted one by one."""
    before, after = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    pictures = ["a", "a", "a", "b", "b", "c", "d", "d"]
    members = gather(pictures)
    gains = [sum(after[at] - before[at] for at in each) for each in members]
    every = [abs(np.dot(signs, gains)) for signs in product((-1, 1), repeat=len(gains))]
    exact = np.mean([one >= abs(sum(gains)) for one in every])
    questions = [verdict.question for verdict in verdicts(before, pictures)]
    p, test = swap(questions, (before, after), members, accuracy)
    assert test == "swaps" and p == pytest.approx(exact, abs=0.02)
    slow, _ = swap(questions, (before, after), members, slow_accuracy)
    assert slow == pytest.approx(exact, abs=0.06)


def test_draws_of_whole_pictures_are_those_of_plain_counting():
    points, pictures = [1.0, 0.0, None, 1.0, 1.0], ["a", "a", "b", "c", "c"]
    questions = [verdict.question for verdict in verdicts(points, pictures)]
    members = gather(pictures)
    quick = redraw(questions, [points, points[::-1]], members, accuracy)
    slow = redraw(questions, [points, points[::-1]], members, slow_accuracy)
    assert quick.shape == (2, 2000) and set(slow.ravel().round(9)) <= set(quick.ravel().round(9))
    assert quick.mean(axis=1) == pytest.approx(slow.mean(axis=1), abs=6)
    assert interval(questions, points, ["a"] * 5, accuracy) is None


def test_one_picture_asked_often_is_not_many_observations():
    points = [1.0, 0.0] * 20
    questions = [verdict.question for verdict in verdicts(points, range(40))]
    low, high = interval(questions, points, list(map(str, range(40))), accuracy)
    wide = interval(questions, sorted(points), [str(n // 10) for n in range(40)], accuracy)
    assert wide[1] - wide[0] > 1.5 * (high - low)


def test_the_detectable_difference_shrinks_with_the_root_of_the_questions():
    def least(times):
        before, after = [1.0, 0.0, 0.0, 1.0] * times, [0.0, 1.0, 0.0, 1.0] * times
        names = range(4 * times)
        return compare("t", "r", accuracy, verdicts(before, names), verdicts(after, names)).detectable

    assert least(100) == pytest.approx(least(25) / 2, rel=0.1)
    assert least(100) == pytest.approx(2.8 * 100 * np.sqrt(0.5 / 400), rel=0.1)  # standard errors of the mean


def test_runs_of_other_questions_are_refused():
    one = verdicts([1.0], "a")
    with pytest.raises(DataError, match="'0' was asked in other words or about another picture"):
        compare("t", "r", accuracy, one, verdicts([1.0], "b"))
    with pytest.raises(DataError, match="no question that both"):
        compare("t", "r", accuracy, one, [])


def test_two_runs_are_compared_from_the_command_line(run, tmp_path):
    for task in ("gqa", "mme"):
        written(task, tmp_path / "data")
    start(tmp_path / "data", always("no"), tmp_path / "a", "gqa", "mme")
    start(tmp_path / "data", always("yes"), tmp_path / "b", "gqa", "mme", limit=2)
    code, out, err = run("eval", "compare", tmp_path / "a", tmp_path / "b")
    assert (code, err) == (0, "") and all(len(line) <= 80 for line in out.splitlines() if "/" not in line)
    assert "better  q0: 'no' -> 'yes'" in out and "1 answers of one run only are left out" in out
    folder = tmp_path / "b" / "against-a"
    gqa, mme = json.loads((folder / "comparison.json").read_text())
    assert (gqa["first"], gqa["second"], gqa["p"], gqa["test"]) == (0, 100, 0.5, "McNemar")
    assert gqa["flips"][0] == {"id": "q0", "answers": ["no", "yes"], "points": [0.0, 1.0]}
    assert mme["first"] == mme["second"] and mme["p"] == 1.0 and len(mme["flips"]) == 4
    page = (folder / "mme.html").read_text()
    assert page.count('<article class="wrong worse"') == 2 and page.count("data:image/jpeg") == 4
    for words, told in (
        (("a", "b", "a"), "two directories are compared"),
        (("a", "a"), "a run is compared with another one"),
        (("a", "data"), "data is not the directory of an evaluation"),
    ):
        code, _, err = run("eval", "compare", *(tmp_path / word for word in words))
        assert code == 2 and told in err and len(err.splitlines()) == 1


def drawn(text, seed):
    """Right in a way that depends on the seed alone."""
    return Answer("yes" if np.random.default_rng(seed).random() < 0.7 else "no", "stop")


def test_repeats_draw_with_seeds_of_their_own_and_go_on_where_they_ended(tmp_path, monkeypatch):
    written("pope", tmp_path)
    how = {"temperature": 1.0, "repeats": 3}
    [score] = start(tmp_path, Scripted(drawn), tmp_path / "whole", "pope", **how)
    monkeypatch.setattr("llavakit.eval.ask.CHUNK", 4)
    with pytest.raises(Exception, match="8 of 18"):
        start(tmp_path, Scripted(drawn, dies_after=8), tmp_path / "run", "pope", **how)
    monkeypatch.setattr("llavakit.eval.ask.CHUNK", 5)
    assert start(tmp_path, Scripted(drawn), tmp_path / "run", "pope", **how) == [score]
    assert rescore(tmp_path / "run") == [score]
    repeats = score.repeats
    assert len(set(repeats.scores)) > 1 and repeats.scores[0] == score.headline[1]
    assert repeats.mean == pytest.approx(np.mean(repeats.scores))
    assert repeats.spread == pytest.approx(np.std(repeats.scores, ddof=1))
    assert repeats.any_right >= max(repeats.scores) and "3 repeats: mean" in str(repeats)
    stored = json.loads((tmp_path / "run" / RESULTS).read_text())["pope"]["official"]["repeats"]
    assert stored["majority"] == repeats.majority is not None
    with pytest.raises(ConfigError, match="greedy answers are the same every time"):
        start(tmp_path, always("no"), tmp_path / "greedy", "pope", repeats=2)


def test_pass_at_k_and_the_vote_by_hand(tmp_path):
    written("gqa", tmp_path)  # three questions, all answered by yes
    said = iter(["yes", "no", "no", "yes", "no", "yes", "yes", "yes", "no"])  # three repeats of three
    responder = Scripted(lambda *_: Answer(next(said), "stop"))
    [score] = start(tmp_path, responder, tmp_path / "run", "gqa", temperature=1.0, repeats=3)
    assert score.repeats.scores == pytest.approx((100 / 3, 200 / 3, 200 / 3))
    assert score.repeats.any_right == 100 and score.repeats.majority == pytest.approx(100 / 3)
    assert vote(["B", "Red.", " red"]) == "Red." and vote(["b", "a"]) == "b"


def test_the_index_leads_to_every_task_and_the_picture_is_drawn(run, tmp_path):
    for task in ("gqa", "pope"):
        written(task, tmp_path / "data")
    start(tmp_path / "data", always("perhaps", "length"), tmp_path / "run", "gqa", "pope")
    code, out, _ = run("eval", "rescore", tmp_path / "run", "--rules", "lmms")
    assert code == 0 and "scores.png" in out
    index = (tmp_path / "run" / INDEX).read_text()
    assert index.count("<tr class") == 4 and 'href="pope/report.html#unread">18<' in index
    assert 'class="has-unread has-cut"' in index
    assert (tmp_path / "run" / "scores.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "run" / "pope" / "report.html").read_text()
    assert page.index('class="unread"') < page.index("<script>") and page.count("<article") == 18


def test_files_for_servers():
    questions = [Question(name, user("?").parts, None) for name in ("1", "2")]
    answers = ["red", 'a "b" <c>\x00']
    rows = as_json(lambda q, a: {"question_id": int(q.id), "answer": a})(questions, answers)
    assert json.loads(rows)[1] == {"question_id": 2, "answer": answers[1]}
    assert json.loads(as_mapping()(questions, answers)) == dict(zip("12", answers, strict=True))
    assert as_csv("q_uid,answer", lambda _, a: a[0])(questions, answers) == b"q_uid,answer\n1,r\n2,a\n"
    book = workbook([{"index": "1", "prediction": answers[1]}, {"index": "2", "hint": "x"}])
    assert book == workbook([{"index": "1", "prediction": answers[1]}, {"index": "2", "hint": "x"}])
    with zipfile.ZipFile(io.BytesIO(book)) as file:
        sheet = file.read("xl/worksheets/sheet1.xml").decode()
    assert sheet.count("<row>") == 3 and 'a "b" &lt;c&gt;</t>' in sheet and "\x00" not in sheet


def test_controls_take_pictures_away_and_nothing_else(run, tmp_path):
    written("mme", tmp_path)
    written("gqa", tmp_path)
    [plan] = plan_tasks(["gqa"], tmp_path, None, None)
    shuffled, blind = shuffle_media(plan.questions), without_media(plan.questions)
    assert [q.reference for q in shuffled] == [q.reference for q in plan.questions]
    own = [part for q in plan.questions for part in q.parts if isinstance(part, Image)]
    others = [part for q in shuffled for part in q.parts if isinstance(part, Image)]
    assert set(own) == set(others) and all(a != b for a, b in zip(own, others, strict=True))
    assert not any(isinstance(part, Image) for q in blind for part in q.parts)
    with pytest.raises(DataError, match="single picture"):
        shuffle_media(plan.questions[:1])
    plans = plan_tasks(["mme", "mme.shuffled", "mme.blind"], tmp_path, None, None)
    scores = evaluate(always("yes"), WHO, plans, tmp_path / "run")
    assert [score.task for score in scores] == ["mme", "mme.shuffled", "mme.blind"]
    assert len({tuple(score.figures.values()) for score in scores}) == 1
    assert sorted(rescore(tmp_path / "run"), key=lambda score: score.task) == sorted(
        scores, key=lambda score: score.task
    )
    assert "unknown control 'dark'" in run("eval", "mme.dark", "--data", tmp_path)[2]


def test_a_page_holds_no_more_than_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "SHOWN", 3)
    written("pope", tmp_path)
    start(tmp_path, always("no"), tmp_path / "run", "pope")
    page = (tmp_path / "run" / "pope" / "report.html").read_text()
    assert page.count("<article") == 3 and "the 3 with the fewest points" in page
