"""What a collection came to: counts, agreement, gold, places, seconds, and what becomes of it as data."""

import json

import pytest

from llavakit.align.collect.report import Share, alpha, describe, report_lines
from llavakit.data.records import read_records
from llavakit.data.votes import read_votes
from llavakit.rules.flips import sign_test
from tests.align.collect.pairs import session_of, side_of, vote_all


@pytest.fixture
def votes(tmp_path):
    """Ada is right, Bob is wrong about every second one and on gold, Eve always takes the left and is quick."""
    with session_of(tmp_path, count=12, gold=3, gold_every=4) as session:
        vote_all(session, "ada")
        turn = 0
        while (task := session.task("bob")) is not None:
            is_gold = task.item.name in session.gold
            session.vote("bob", task.item.name, side_of(task, not is_gold and turn % 2 == 0), None, 4.0)
            turn += not is_gold
        while (task := session.task("eve")) is not None:
            session.vote("eve", task.item.name, "left", None, 0.5)
    return read_votes(tmp_path / "out.votes")


def test_people_in_figures(votes):
    ada, bob, eve = (
        describe(name, [votes.of[item][name] for item in items]) for name, items in votes.by.items()
    )
    assert (ada.votes, ada.gold, ada.hurried, ada.seconds) == (15, Share(3, 3), 0, 5.0)
    assert bob.gold == Share(0, 3)
    assert (eve.left, eve.hurried) == (Share(15, 15), 15)
    assert sign_test(eve.left.part, eve.left.whole - eve.left.part) == pytest.approx(2 / 2**15)
    assert sign_test(6, 6) == sign_test(0, 0) == 1.0


def test_agreement_is_of_pairs_and_not_of_gold_items(votes, tmp_path):
    said = [
        list(each.values()) for each in votes.of.values() if all(vote.gold is None for vote in each.values())
    ]
    assert len(said) == 12
    (tmp_path / "same").mkdir()
    with session_of(tmp_path / "same", count=9) as session:
        vote_all(session, "ada")
        vote_all(session, "bob")
    agreed = read_votes(tmp_path / "same" / "out.votes")
    for metric in ("nominal", "ordinal"):
        assert alpha(agreed, lambda vote: vote.verdict, metric) == 1
        assert alpha(votes, lambda vote: vote.verdict, metric) < 0.8
        assert alpha(votes, lambda vote: vote.helpfulness, metric) is None


def test_the_report_is_printed(votes, tmp_path, run):
    code, said, _ = run("collect", "--report", tmp_path / "out.votes")
    assert code == 0
    for line in report_lines(votes):
        assert line in said
    assert "45 votes of 3 annotator(s) on 12 pairs and 3 gold items" in said
    assert "12 with a better answer" in said and "Krippendorff's alpha nominal, ordinal: not defined" in said
    assert "3 of 3 (100 %)" in said and "15 of 15 (100 %)" in said


@pytest.mark.parametrize(
    ("to", "lines"), [("rlhf", 12), ("trl-pairs", 12), ("kto", 24), ("label-studio", 12), ("argilla", 12)]
)
def test_the_file_of_votes_becomes_any_other(votes, tmp_path, run, to, lines):
    out = tmp_path / "new.jsonl"
    code, said, _ = run("data", "convert", tmp_path / "out.votes", "--to", to, "--out", out)
    assert code == 0 and "(read as 12 collected)" in said
    assert len(list(read_records(out))) == lines


def test_ties_skips_and_quarrels_are_no_pairs(tmp_path, run):
    with session_of(tmp_path, count=4) as session:
        for sides in (("tie", "tie"), ("skip", None), ("both_bad", None), ("left", None)):
            task = session.task("ada")
            session.vote("ada", task.item.name, *sides, 1.0)
        last = session.task_before("ada", None)
        session.vote("ada", last.item.name, side_of(last), None, 1.0)
        while (task := session.task("bob")).item != last.item:
            session.vote("bob", task.item.name, "skip", None, 1.0)
        session.vote("bob", task.item.name, side_of(task, False), None, 1.0)
    code, said, _ = run(
        "data", "convert", tmp_path / "out.votes", "--to", "rlhf", "--out", tmp_path / "a.jsonl"
    )
    flaws = [json.loads(line)["reason"] for line in (tmp_path / "a.jsonl.bad.jsonl").read_text().splitlines()]
    assert "0 of 4 records written" in said
    assert flaws == [
        "no answer is better: a tie",
        "it was skipped",
        "no answer is better: both are bad",
        "the annotators do not agree",
    ]
    assert code == 0


def test_an_empty_or_foreign_file_is_one_line(tmp_path, run):
    path = tmp_path / "a.votes"
    path.write_text("")
    assert run("collect", "--report", path)[0::2] == (2, f"error: {path}: no vote yet\n")
    path.write_text('{"chosen": "a"}\n')
    code, _, said = run("collect", "--report", path)
    assert code == 2 and f"{path}:1: no vote of `llavakit collect`" in said
    code, _, said = run("collect")
    assert code == 2 and "give files of pairs and --out" in said
    code, _, said = run("collect", path, "--report", path)
    assert code == 2 and "--report FILE.votes stands alone" in said
