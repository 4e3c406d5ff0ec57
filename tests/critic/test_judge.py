"""Files judged: kept, gone on with, refused; and what no judge said is never a score."""

import json
from dataclasses import replace

import pytest

from llavakit.chat import load
from llavakit.core.errors import ConfigError, DataError, Interrupted, RemoteError, RemoteTimeout
from llavakit.core.journal import read_journal
from llavakit.critic.expected import expected_values
from llavakit.critic.formats import FORMATS
from llavakit.critic.gold import check_gold, drawn_cases
from llavakit.critic.judge import Judge
from llavakit.critic.report import draw_report, read_report
from llavakit.critic.run import judge_file
from llavakit.data.cases import Case, read_cases
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint
from llavakit.text.conversation import Conversation, Image, assistant
from tests import tiny
from tests.critic.scripted import ScriptedJudge, prefers, red, scores, truthful
from tests.data.test_cases import written
from tests.serve.live import ScriptedWorker, served

WHO = {"judge": "scripted", "weights": None}
RIGHT = prefers(truthful)
BETTER, SCORE = FORMATS["better"], FORMATS["score"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "tiny"
    checkpoint.save(tiny.checkpoint(), folder)
    return folder


@pytest.fixture(scope="module")
def chat(model):
    return load(model)


def judged(tmp_path, responder, rows, *, form=BETTER, out="out.jsonl", **how):
    cases = read_cases(written(tmp_path, *rows))
    return judge_file(Judge(responder, form), cases, tmp_path / out, who=WHO, **how)


def test_both_orders_of_every_pair_are_asked_and_margins_are_of_the_case(tmp_path):
    outcome = judged(tmp_path, ScriptedJudge(RIGHT), red(3))
    assert [(row["id"], row["swapped"], row["value"], row["label"]) for row in outcome.rows] == [
        ("0", False, -1, -1), ("0", True, -1, -1), ("1", False, 1, 1), ("1", True, 1, 1), ("2", False, -1, -1),
        ("2", True, -1, -1),
    ]  # fmt: skip
    assert (outcome.failed, outcome.spent.prompt_tokens, outcome.spent.answer_tokens) == (0, 600, 60)
    assert "600 tokens read, 60 said, cost 0.0021" in outcome.spent.tell((2.5, 10))
    report = read_report(tmp_path / "out.jsonl")
    assert report.figures["one order"]["accuracy"] == report.figures["both agree"]["accuracy"] == 1
    assert report.figures["position"] == {"agreement": 1.0, "first": 0.5}
    run = outcome.rows[0]["run"]
    assert run == WHO | {"format": "better", "verdict": "said", "sampling": {"max_tokens": 1024}}
    assert len(outcome.rows[0]["prompt"]) == 16


def test_a_run_that_was_stopped_before_the_first_order_came_has_no_report_yet(tmp_path):
    """Answers of a server come in any order."""
    judged(tmp_path, ScriptedJudge(RIGHT), red(1))
    path = tmp_path / "out.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[1])
    with pytest.raises(DataError, match=r"out\.jsonl: no case in the order of the file has a label"):
        read_report(path)


def test_a_judge_that_likes_a_place_is_seen_and_swapping_evens_it_out(tmp_path):
    judged(tmp_path, ScriptedJudge(lambda _: "The better response: [1]"), red(4))
    report = read_report(tmp_path / "out.jsonl")
    assert report.figures["position"] == {"agreement": 0.0, "first": 1.0}
    assert report.figures["mean of both"]["accuracy"] == 0 and report.figures["one order"]["accuracy"] == 0.5
    assert all(len(line) <= 80 for line in draw_report(report).splitlines())


def test_scores_are_read_and_compared_with_labels(tmp_path):
    rows = [{"question": "?", "answer": "good " * n, "label": n} for n in range(1, 5)]
    outcome = judged(tmp_path, ScriptedJudge(scores(len)), rows, form=SCORE)
    assert [row["value"] for row in outcome.rows] == [5, 10, 15, 20]
    figures = read_report(tmp_path / "out.jsonl").figures["scores"]
    assert figures["pearson"] == pytest.approx(1) and figures["length pearson"] == pytest.approx(1)


FAULTS = {
    "unread": "I like both.", "range": "Score: 300", "http": RemoteError("500: broken"),
    "timeout": RemoteTimeout("did not answer in time"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_not_said_is_counted_apart_and_asked_again_only_if_lost(tmp_path, fault):
    rows = [{"question": "?", "answer": f"good {n}"} for n in range(4)]
    faulty = ScriptedJudge(lambda prompt: FAULTS[fault] if "good 2" in prompt else "Score: 50")
    outcome = judged(tmp_path, faulty, rows, form=SCORE, most_failed=0.5)
    assert outcome.problems == {fault: 1} and outcome.failed == 0.25
    assert [row["value"] for row in outcome.rows] == [50, 50, None, 50]
    again = ScriptedJudge(lambda _: "Score: 50")
    second = judged(tmp_path, again, rows, form=SCORE)
    assert len(again.asked) == (fault in ("http", "timeout"))
    assert second.failed == (0.25 if fault in ("unread", "range") else 0)


def test_a_dead_server_is_not_asked_to_the_end(tmp_path):
    dead = ScriptedJudge(lambda _: RemoteError("cannot be reached"))
    outcome = judged(tmp_path, dead, red(40), most_failed=0.1)
    assert len(dead.asked) == 9 and outcome.failed == 1 and outcome.problems == {"http": 9}


def test_a_broken_picture_has_no_verdict_and_the_others_do(tmp_path, chat):
    tiny.picture(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"no picture")
    rows = red(1, image="x.png") + [row | {"id": "broken"} for row in red(1, image="y.png")]
    cases = read_cases(written(tmp_path, *rows))
    outcome = judge_file(Judge(chat, BETTER, expected=True), cases, tmp_path / "out.jsonl", who=WHO)
    assert [row["problem"] for row in outcome.rows] == ["", "", "media", "media"]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path):
    with pytest.raises(Interrupted, match=r"5 of 8 judged; go on with: the same command") as stopped:
        judged(tmp_path, ScriptedJudge(RIGHT, dies_after=5), red(4))
    assert stopped.value.exit_code == 130 and len(read_journal(tmp_path / "out.jsonl")) == 5
    second = ScriptedJudge(RIGHT)
    outcome = judged(tmp_path, second, red(4))
    assert len(second.asked) == 3 and len(outcome.rows) == 8
    assert outcome.rows == judged(tmp_path, ScriptedJudge(RIGHT), red(4), out="other.jsonl").rows


@pytest.mark.parametrize("cut", [2, 40, 400])
def test_a_run_that_was_killed_goes_on_behind_its_last_whole_line(tmp_path, cut):
    whole = judged(tmp_path, ScriptedJudge(RIGHT), red(4)).rows
    out = tmp_path / "out.jsonl"
    out.write_bytes(out.read_bytes()[:-cut])
    left = out.read_bytes().count(b"\n")
    second = ScriptedJudge(RIGHT)
    assert judged(tmp_path, second, red(4)).rows == whole and len(second.asked) == 8 - left > 0


def test_other_judges_cases_and_files_are_refused_by_name(tmp_path):
    judged(tmp_path, ScriptedJudge(RIGHT), red(2))
    with pytest.raises(DataError, match=r"out\.jsonl:1: its verdicts have format 'better', not 'arena'"):
        judged(tmp_path, ScriptedJudge(RIGHT), red(2), form=FORMATS["arena"])
    with pytest.raises(DataError, match="case '1' was asked in other words; use another --out"):
        judged(tmp_path, ScriptedJudge(RIGHT), [red(1)[0], red(2)[1] | {"question": "What?"}])
    (tmp_path / "out.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"out\.jsonl:1: not a verdict: it has no 'id'"):
        judged(tmp_path, ScriptedJudge(RIGHT), red(2))


def test_the_gold_set_is_drawn_and_a_judge_below_the_bar_is_refused():
    pairs, singles = drawn_cases(2), drawn_cases(1)
    true = {case.reference for case in pairs}
    assert check_gold(Judge(ScriptedJudge(prefers(true.__contains__)), BETTER), pairs, 1.0) == 1.0
    assert (
        check_gold(Judge(ScriptedJudge(scores(lambda text: 90 if text in true else 10)), SCORE), singles, 1.0)
        == 1
    )
    with pytest.raises(ConfigError, match=r"agrees with 0\.50 of the gold set, less than --bar 0\.6"):
        check_gold(Judge(ScriptedJudge(lambda _: "The better response: [1]"), BETTER), pairs, 0.6)
    with pytest.raises(ConfigError, match=r"agrees with 0\.00"):
        check_gold(Judge(ScriptedJudge(lambda _: "hello"), SCORE), singles, 0.6)
    with pytest.raises(RemoteError, match="the gold set was not judged: gone"):
        check_gold(Judge(ScriptedJudge(lambda _: RemoteError("gone")), SCORE), singles, 0.6)
    for name, form in FORMATS.items():  # every format can ask about it
        for case in pairs if form.answers == 2 else singles:
            assert form.ask(case).messages, name


def test_rows_of_the_critic_are_asked_as_they_stand(tmp_path):
    rows = [
        tiny.record(n, None, [(f"Which {n}?\nASSISTANT:\n", f"Good. {verdict}")])
        for n, verdict in enumerate(("The better response: [2]", "My final verdict is [[A>B]]", "Rating: 4"))
    ]
    judge = ScriptedJudge(lambda prompt: "Yes. The better response: [2]" if "0" in prompt else "[[A=B]]")
    outcome = judged(tmp_path, judge, rows)
    assert judge.asked[0] == "Which 0?\nASSISTANT:"
    assert [(row["label"], row["value"], row["problem"]) for row in outcome.rows] == [
        (1.0, 1.0, ""), (-0.5, 0.0, ""), (4.0, None, "unread"),
    ]  # fmt: skip


def test_expected_scores_are_the_mean_of_the_verdicts_by_their_probabilities(chat, tmp_path):
    case = Case("a", "Which?", (Image(tiny.picture(tmp_path / "x.png")),), ("red", "a blue one"))
    prompt = BETTER.ask(case)
    other = BETTER.ask(replace(case, answers=("blue", "it is a long red one")))
    [(value, _), _] = expected_values(chat, [(p, BETTER.lead, BETTER.verdicts) for p in (prompt, other)])
    logprobs = []
    for verdict in BETTER.verdicts:  # the slow twin: one whole conversation after the other
        talk = Conversation((*prompt.messages, assistant(BETTER.lead + verdict)))
        [said] = chat.engine.score([chat.encoder.encode(talk)])
        logprobs.append(sum(said))
    weights = [2.718281828459045 ** (each - max(logprobs)) for each in logprobs]
    mean = sum(w * v for w, v in zip(weights, BETTER.verdicts.values(), strict=True)) / sum(weights)
    assert value == pytest.approx(mean, abs=1e-4) and -1 < value < 1


def test_both_orders_share_picture_and_question(chat, tmp_path):
    tiny.picture(tmp_path / "x.png")
    before = chat.engine.stats()
    cases = read_cases(written(tmp_path, *red(1, image="x.png")))
    outcome = judge_file(
        Judge(chat, BETTER, Sampling(max_tokens=2)), cases, tmp_path / "out.jsonl", who=WHO, most_failed=1
    )
    after = chat.engine.stats()
    assert after.copied_tokens - before.copied_tokens > 40 and len(outcome.rows) == 2
    assert after.tower_tiles - before.tower_tiles == 1


def test_the_command_judges_reports_and_fails_above_the_threshold(run, model, tmp_path):
    tiny.picture(tmp_path / "x.png")
    path, out = written(tmp_path, *red(2, image="x.png")), tmp_path / "out.jsonl"
    words = ("judge", "pairwise", path, "--judge", model, "--out", out)
    code, said, err = run(*words, "--expected", "--bar", 0)
    assert (code, err) == (0, "") and "gold set: agrees with" in said and "4 asked in" in said
    assert json.loads(out.read_text().splitlines()[0])["run"]["verdict"] == "expected"
    code, said, err = run("judge", "report", out)
    assert (code, err) == (0, "") and "mean of both" in said
    code, said, err = run(*words[:-1], tmp_path / "said.jsonl", "--gold", "none", "--max-tokens", 4)
    assert (code, err) == (1, "") and "no score: 4 unread" in said
    assert "failed: 1.00 of 4 asks have no score, more than 0.05" in said


def test_a_server_judges(run, tmp_path):
    path = written(tmp_path, *[{"question": "?", "answer": f"a{n}", "label": n} for n in range(3)])
    words = ("judge", "pointwise", path, "--gold", "none", "--price", "2,4", "--judge")
    with served(ScriptedWorker("Score: 70")) as (url, _):
        code, said, err = run(*words, url, "--out", tmp_path / "out.jsonl")
        assert (code, err) == (0, "") and "cost 0.0" in said
        code, _, err = run(*words, url, "--out", tmp_path / "b.jsonl", "--expected")
        assert code == 2 and "expected scores need the probabilities of a model here" in err
    assert [row["value"] for row in read_journal(tmp_path / "out.jsonl")] == [70, 70, 70]
    assert read_journal(tmp_path / "out.jsonl")[0]["prompt_tokens"] > 0


MISTAKES = {
    "no file": (["pointwise", "gone.jsonl"], "gone.jsonl: data file not found"),
    "two answers": (["pointwise", "pairs"], "case '0' has 2 answers, not 1"),
    "no verdict": (["report", "pairs"], "not a verdict: no 'swapped'"),
    "no price": (["pairwise", "pairs", "--price", "cheap"], "--price 'cheap' is not two numbers"),
    "no format": (["pairwise", "pairs", "--format", "betterr"], "did you mean 'better'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(run, tmp_path, mistake):
    words, told = MISTAKES[mistake]
    path = written(tmp_path, *red(1))
    words = [path if word == "pairs" else word for word in words]
    more = [] if words[0] == "report" else ["--judge", "runs/none", "--out", tmp_path / "out.jsonl"]
    code, _, err = run("judge", *words, *more)
    assert code == 2 and told in err and len(err.splitlines()) == 1
