"""Who is asked what: every pair once, in both orders, gold items among them, and nothing lost."""

import json
import subprocess
import sys

import pytest

from llavakit.align.collect.items import read_gold, read_items
from llavakit.core.errors import ConfigError, DataError
from llavakit.data.records import read_records
from llavakit.data.votes import read_votes
from tests import tiny
from tests.align.collect.pairs import session_of, side_of, vote_all, write_pairs


def test_everybody_judges_every_pair_once(tmp_path):
    with session_of(tmp_path) as session:
        seen = [task.item.name for task in vote_all(session, "ada")]
        assert len(seen) == len(set(seen)) == 6
        assert [task.item.name for task in vote_all(session, "bob")] == seen
        assert session.task("ada") is None


def test_the_count_of_turns_tells_no_gold_item(tmp_path):
    with session_of(tmp_path, count=8, gold=3, gold_every=4) as session:
        tasks = vote_all(session, "ada")
        assert [task.done for task in tasks] == list(range(11))
        assert [task.open for task in tasks] == list(range(11, 0, -1))
        are_gold = [task.item.name in session.gold for task in tasks]
        assert sum(are_gold[:4]) == sum(are_gold[4:8]) == sum(are_gold[8:]) == 1
    rows = [json.loads(line) for line in (tmp_path / "out.votes").read_text().splitlines()]
    assert [row["gold"] is not None for row in rows] == are_gold
    assert all(row["verdict"] == row["gold"] for row in rows if row["gold"])


def test_gold_items_are_no_data_and_the_file_reads_as_pairs(tmp_path):
    with session_of(tmp_path, count=3, gold=1, gold_every=2) as session:
        vote_all(session, "ada")
    records = read_records(tmp_path / "out.votes")
    assert [record.raw["id"] for record in records] == [0, 1, 2]
    for number, record in enumerate(records):
        chosen, rejected = record.pair()
        assert [talk.messages[-1].text for talk in (chosen, rejected)] == [
            f"Good {number}.",
            f"Bad {number}.",
        ]
        assert chosen.media[0].source == tmp_path / "x.png"


def test_sides_and_numbers_are_drawn_and_recorded(tmp_path):
    with session_of(tmp_path, count=40) as session:
        tasks = vote_all(session, "ada")
        votes = read_votes(tmp_path / "out.votes").all
    for wins in (
        [side_of(task) == "left" for task in tasks],  # where the better answer stood
        [vote.verdict == 1 for vote in votes],  # which number it has
        [vote.verdict == vote.left for vote in votes],
    ):
        assert 8 <= sum(wins) <= 32
    assert all(task.left == vote.left for task, vote in zip(tasks, votes, strict=True))


def test_a_collection_goes_on_where_it_stood_whatever_the_order_of_the_file(tmp_path):
    with session_of(tmp_path) as session:
        for _ in range(2):
            task = session.task("ada")
            session.vote("ada", task.item.name, "tie", "skip", 1.0)
        before = session.task("ada")
    lines = write_pairs(tmp_path, 6).read_text().splitlines()
    with session_of(tmp_path) as session:
        again = session.task("ada")
        assert (again.item.name, again.left, again.done, again.open) == (before.item.name, before.left, 2, 4)
    found = read_items([write_pairs(tmp_path, 6)], None, tmp_path)
    (tmp_path / "pairs.jsonl").write_text("\n".join(reversed(lines)))
    turned = read_items([tmp_path / "pairs.jsonl"], None, tmp_path)
    assert {item.name for item in found.items} == {item.name for item in turned.items}
    assert {item.name: item.asked.answers for item in found.items} == {
        item.name: item.asked.answers for item in turned.items
    }


def test_a_vote_can_be_changed_and_the_last_one_counts(tmp_path):
    with session_of(tmp_path, count=2) as session:
        [first, second] = vote_all(session, "ada", good=lambda number: False)
        back = session.task_before("ada", None)
        assert (
            back.item == second.item
            and back.earlier.verdict == session.votes.of[back.item.name]["ada"].verdict
        )
        assert session.task_before("ada", back.item.name).item == first.item
        assert session.task_before("ada", first.item.name) is None
        session.vote("ada", first.item.name, side_of(first), None, 1.0)
        assert session.task("ada") is None
    votes = read_votes(tmp_path / "out.votes")
    assert len((tmp_path / "out.votes").read_text().splitlines()) == 3 and votes.changed == 1
    said = [record.pair()[0].messages[-1].text for record in read_records(tmp_path / "out.votes")]
    assert said == ["Good 0.", "Bad 1."]


def test_so_many_votes_a_pair_are_enough(tmp_path):
    with session_of(tmp_path, count=4, votes=2) as session:
        task = session.task("ada")
        session.vote("ada", task.item.name, "skip", None, 1.0)  # says nothing, so it is no vote
        assert len(vote_all(session, "ada")) == 3
        assert len(vote_all(session, "bob")) == 4
        assert [each.item for each in vote_all(session, "eve")] == [task.item]
        assert session.task("dan") is None


def test_two_people_who_look_at_once_get_different_pairs_where_one_vote_is_enough(tmp_path):
    with session_of(tmp_path, count=2, votes=1) as session:
        one, two = session.task("ada"), session.task("bob")
        assert one.item != two.item
        assert session.task("eve").item in (one.item, two.item)  # better one too many than a pair nobody ends


def test_which_question_decides(tmp_path):
    with session_of(tmp_path, count=1, always_ask_both=True) as session:
        task = session.task("ada")
        name, left = task.item.name, task.left
        right = 3 - left
        for first, second, verdict in (
            ("left", "right", left), ("right", "tie", right), ("tie", "right", right), ("tie", "tie", "tie"),
            ("tie", "both_bad", "both_bad"), ("both_bad", None, "both_bad"), ("skip", None, "skip"),
        ):  # fmt: skip
            assert session.vote("ada", name, first, second, 1.0).verdict == verdict


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"item": "gone"}, "none of the collection"),
        ({"hallucination": "tie"}, "more helpful was not answered"),
        ({"helpfulness": "left"}, "more helpful was not asked"),
        ({"seconds": -1.0}, "the seconds"),
        ({"annotator": " "}, "name has 1 to 80"),
        ({"annotator": "a\nb"}, "name has 1 to 80"),
    ],
)
def test_what_was_not_asked_so_is_refused_and_not_written(tmp_path, change, what):
    with session_of(tmp_path, count=1) as session:
        said = {"annotator": "ada", "item": session.task("ada").item.name, "hallucination": "left"}
        said |= {"helpfulness": None, "seconds": 1.0}
        values = list((said | change).values())
        with pytest.raises(DataError, match=what):
            session.vote(*values)
    assert (tmp_path / "out.votes").read_text() == ""


def test_rollouts_of_a_prompt_are_pairs(tmp_path):
    tiny.picture(tmp_path / "x.png")
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}},
                                             {"type": "text", "text": "What?"}]}]  # fmt: skip
    rows = [
        {"messages": messages, "rollout": {"group": group, "choice": choice, "text": text}}
        for group, texts in enumerate((("a", "b", "c", "c"), ("d", "e", "f")))
        for choice, text in enumerate(texts)
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_items([tmp_path / "rollouts.jsonl"], None, tmp_path)
    assert [sorted(item.asked.answers) for item in found.items] == [["a", "b"], ["d", "e"]]
    assert [item.known for item in found.items] == [None, None]
    assert any("the same answer as" in reason for reason in found.left_out)
    assert any("without a second one" in reason for reason in found.left_out)


def test_what_cannot_be_asked_is_told(tmp_path):
    path = write_pairs(tmp_path, 2)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    rows = [first, first, second | {"image": "gone.png"}, second | {"rejected": second["chosen"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_items([path], None, tmp_path)
    assert len(found.items) == 1
    for reason in ("2: the same pair as", "3: not found", "4: chosen and rejected are equal"):
        assert any(reason in said for said in found.left_out), found.left_out
    unjudged = {"messages": [{"role": "user", "content": "Hm?"}], "answers": ["a", "b"]}
    path.write_text(json.dumps(unjudged))
    assert len(read_items([path], None, tmp_path).items) == 1
    gold = read_gold([path], None, tmp_path)
    assert gold.items == [] and "does not say what is right" in gold.left_out[0]


def test_a_file_of_votes_is_one_collection_at_a_time_and_named_so(tmp_path, run):
    with session_of(tmp_path), pytest.raises(ConfigError, match="another process"), session_of(tmp_path):
        pass
    code, _, said = run("collect", write_pairs(tmp_path, 1), "--out", tmp_path / "votes.jsonl", "--port", 0)
    assert code == 2 and "must end in .votes" in said
    code, _, said = run("collect", tmp_path / "pairs.jsonl", "--out", tmp_path / "a.votes", "--key", "a b")
    assert code == 2 and "--key must be letters" in said


KILLED = """
import os, signal
from pathlib import Path
from llavakit.align.collect.run import open_session
from llavakit.align.collect.session import Rules
with open_session([Path("pairs.jsonl")], Path("out.votes"), [], Rules()) as session:
    for _ in range(3):
        task = session.task("ada")
        session.vote("ada", task.item.name, "left", None, 1.0)
        print("kept", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill_and_a_torn_line_is_no_vote(tmp_path):
    write_pairs(tmp_path, 6)
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("kept") == 3, done.stderr
    with (tmp_path / "out.votes").open("a") as file:
        file.write('{"item": "half')
    assert len(read_votes(tmp_path / "out.votes").all) == 3  # while another process is writing
    with session_of(tmp_path) as session:
        assert session.task("ada").done == 3
        vote_all(session, "ada")
    assert len(read_votes(tmp_path / "out.votes").all) == 6
