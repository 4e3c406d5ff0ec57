"""Benchmarks that a judge scores: the reference gets the most, what a judge does not say is no score, and so on."""

import json

import pytest

from llavakit.core.errors import DataError, RemoteError, TooManyFailures
from llavakit.core.journal import read_journal
from llavakit.engine.responder import Answer
from llavakit.eval.plan import plan_tasks
from llavakit.eval.reviews import Reviewer
from llavakit.eval.run import PAGE, RESULTS, evaluate, rescore
from llavakit.eval.tasks.table import BENCHMARKS, JUDGED
from tests.critic.scripted import ScriptedJudge
from tests.eval.judged_layouts import COUNT, LAYOUTS, truth
from tests.eval.responders import Scripted, always
from tests.serve.live import ScriptedWorker, served

WHO = {"model": "scripted", "weights": None}
BOTH = {  # what a judge says of the best and of the worst answer, and the headlines of all such
    "llava-bench-coco": ("10 10\nEqual.", "10 1\nBad.", 100, 10),
    "llava-bench-wild": ("10 10\nEqual.", "10 1\nBad.", 100, 10),
    "llava-bench-tools": ("10 10\nEqual.", "10 1\nBad.", 100, 10),
    "llava-bench-wilder": ("10 10\nEqual.", "10 1\nBad.", 100, 10),
    "llava-med": ("10 10\nEqual.", "10 1\nBad.", 100, 10),
    "wildvision": ("My final verdict is [[B>>A]]", "[[A>>B]]", 100, 0),
    "mmhal-bench": ("Rating: 6, nothing invented", "Rating: 0, something invented", 6, 0),
    "mm-vet": ("1.0", "0.0", 100, 0),
    "vibe-eval": ("Explanation: x\nRating: 5", "Explanation: x\nRating: 1", 100, 0),
    "videochatgpt": ("{'score': 5}", "{'score': 0}", 5, 0),
    "livebench": ("Good.\nRating: 10", "Bad.\nRating: 0", 100, 0),
    "video-detail": ("{'score': 5}", "{'score': 0}", 5, 0),
    "dream-1k": (
        "{'said': 3, 'supported': 3, 'found': 2}",
        "{'said': 0, 'supported': 0, 'found': 0}",
        100,
        0,
    ),
    "activitynet-qa-judged": ("{'pred': 'yes', 'score': 5}", "{'pred': 'no', 'score': 0}", 100, 0),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    top = tmp_path_factory.mktemp("judged")
    for task, write in LAYOUTS.items():
        (top / task).mkdir()
        write(top / task)
    return top


def reviewer(task, say=None, *, bar=0.0):
    """A judge that gives the most to an answer that repeats the reference."""
    best, worst, *_ = BOTH[task]
    told = say or (lambda prompt: best if any(prompt.count(truth(n)) > 1 for n in range(COUNT)) else worst)
    return Reviewer(ScriptedJudge(told), {"judge": "scripted"}, bar)


def knows(text, place=0):
    """The reference of a question; of one that all videos are asked, by its place."""
    word = text.split()[1].rstrip("?")
    return Answer(truth(int(word) if word.isdigit() else place), "stop")


def measured(data, out, task, responder, judge):
    return evaluate(responder, WHO, plan_tasks([task], data, None, None), out, reviewer=judge)


def test_every_row_has_a_layout_and_a_name_of_its_own():
    assert set(LAYOUTS) == set(JUDGED) == set(BOTH) and not set(JUDGED) & set(BENCHMARKS)


@pytest.mark.parametrize("task", JUDGED)
def test_the_reference_gets_the_most_and_silence_the_least(data, tmp_path, task):
    *_, best, worst = BOTH[task]
    [score] = measured(data, tmp_path / "best", task, Scripted(knows), reviewer(task))
    assert score.headline[1] == pytest.approx(best) and score.unparsed == 0
    assert score.answered == score.questions
    [score] = measured(data, tmp_path / "worst", task, always(""), reviewer(task))
    assert score.headline[1] == pytest.approx(worst)


@pytest.mark.parametrize("task", JUDGED)
def test_reviews_that_are_not_read_are_no_scores(data, tmp_path, task):
    [score] = measured(data, tmp_path, task, Scripted(knows), reviewer(task, lambda _: "I cannot say."))
    assert score.unparsed == score.answered and score.if_wrong == score.if_chance == 0
    best = BOTH[task][0]
    half = ScriptedJudge(lambda prompt: best if len(half.asked) % 2 else "No idea.")
    out = tmp_path / "half"
    [score] = measured(data, out, task, Scripted(knows), Reviewer(half, {"judge": "scripted"}, 0.0))
    assert 0 < score.unparsed < score.answered
    assert score.headline[1] == pytest.approx(BOTH[task][2]) and score.if_wrong < score.headline[1]


@pytest.mark.parametrize("task", JUDGED)
def test_order_and_batches_are_nothing_and_scoring_again_needs_no_judge(data, tmp_path, task, monkeypatch):
    def some(text, place):
        return knows(text, place) if "0" in knows(text, place).text else Answer("blue", "stop")

    found = measured(data, tmp_path / "run", task, Scripted(some), reviewer(task))
    for path in sorted((tmp_path / "run" / task).glob("verdicts-*.jsonl")):
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(reversed(rows)))
    assert rescore(tmp_path / "run") == found
    monkeypatch.setattr("llavakit.critic.run.CHUNK", 1)
    monkeypatch.setattr("llavakit.eval.ask.CHUNK", 1)
    assert measured(data, tmp_path / "single", task, Scripted(some), reviewer(task)) == found


@pytest.mark.parametrize("task", JUDGED)
def test_missing_files_are_named(tmp_path, task):
    with pytest.raises(DataError, match="not there: "):
        JUDGED[task].questions(tmp_path)


@pytest.mark.parametrize(
    "task", [task for task in JUDGED if task not in ("wildvision", "llava-bench-wilder")]
)
def test_a_group_without_a_review_has_no_figure(data, task):
    """It would be a zero that no judge gave, and count in the means of groups."""
    row, best = JUDGED[task], BOTH[task][0]
    questions = row.questions(data / task)
    rules = next(iter(row.rules.values()))
    all_of_them = rules.aggregate(questions, rules.judge(questions, [best] * len(questions)))
    [first, *rest] = questions
    unread = rules.judge([first], ["I cannot say."]) + rules.judge(rest, [best] * len(rest))
    found = rules.aggregate(questions, unread)
    assert set(found) <= set(all_of_them)
    assert all(found[name] == pytest.approx(all_of_them[name]) for name in found)


def test_both_forms_of_a_question_are_judged_together(data, tmp_path):
    judge = reviewer("videochatgpt")
    measured(data, tmp_path, "videochatgpt", Scripted(knows), judge)
    asked = [text for text in judge.responder.asked if "two forms" in text]
    assert len(asked) == 2 and all("Q1 " in text and "Q2 " in text for text in asked)
    assert len(judge.responder.asked) == 2 * 5


def test_events_of_a_description_by_hand(data):
    questions = JUDGED["dream-1k"].questions(data / "dream-1k")
    said = [
        "{'said': 4, 'supported': 3, 'found': 1}",
        "{'said': 2, 'supported': 1, 'found': 2}",
        "{'said': 0,",
    ]
    rules = JUDGED["dream-1k"].rules["ours"]
    points = rules.judge(questions, said)
    assert points == [pytest.approx(0.6), pytest.approx(2 / 3), None]
    figures = rules.aggregate(questions, points)
    assert figures == pytest.approx(
        {
            "F1": 100 * 2 * 0.625 * 0.75 / 1.375,
            "precision": 62.5,
            "recall": 75,
            "stock": 60,
            "youtube": 200 / 3,
        }
    )
    for wrong in ("{'said': 1, 'supported': 2, 'found': 0}", "{'said': 3, 'supported': 2, 'found': 3}", "5"):
        assert rules.judge(questions[:1], [wrong]) == [None]


def test_answers_are_kept_until_there_is_a_judge(data, tmp_path):
    out = tmp_path / "run"
    assert measured(data, out, "mm-vet", Scripted(knows), None) == [] == rescore(out)
    [score] = rescore(out, reviewer=reviewer("mm-vet"))
    assert score.figures == {"total": 100, "know": 100, "ocr": 100, "rec": 100}
    rows = read_journal(out / "mm-vet" / "verdicts-mm-vet.jsonl")
    assert rows[0]["run"]["judge"] == "scripted"
    page = (out / "mm-vet" / PAGE).read_text()
    assert "Judge: 1.0" in page and truth(0) in page
    assert json.loads((out / RESULTS).read_text())["mm-vet"]["ours"]["figures"]["total"] == 100


def test_a_judge_that_dies_leaves_no_score_and_the_same_command_goes_on(data, tmp_path):
    best = BOTH["mmhal-bench"][0]
    dying = ScriptedJudge(lambda _: best if len(dying.asked) < 2 else RemoteError("gone"))
    with pytest.raises(TooManyFailures, match=r"verdicts-mmhal\.jsonl: 1 of 3 reviews did not come") as error:
        measured(data, tmp_path, "mmhal-bench", Scripted(knows), Reviewer(dying, {"judge": "scripted"}, 0.0))
    assert error.value.exit_code == 1
    again = reviewer("mmhal-bench")
    [score] = measured(data, tmp_path, "mmhal-bench", Scripted(knows), again)
    assert len(again.responder.asked) == 2 and score.figures["score"] == 6
    assert score.figures["hallucination rate"] == 0


def test_a_judge_that_fails_drawn_cases_is_not_asked(run, data, tmp_path):
    with served(ScriptedWorker("1.0")) as (url, _):
        words = ("eval", "mm-vet", "--data", data, "--remote", url, "--judge", url, "--out", tmp_path / "run")
        code, _, err = run(*words)
        assert code == 2 and "agrees with 0.00 of the gold set, less than --bar 0.6" in err
        code, out, err = run("eval", "mm-vet", "--data", data, "--remote", url, "--out", tmp_path / "other")
        assert (code, err) == (0, "") and "chats are not scored yet: llavakit eval rescore" in out
        words = ("eval", "rescore", tmp_path / "other", "--judge", url, "--judge-bar", 0)
        code, out, err = run(*words)
        assert (code, err) == (0, "") and "total 100.00" in out
        assert "needs --judge" in run("eval", "list")[1]
