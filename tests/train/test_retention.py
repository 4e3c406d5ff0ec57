"""Short answers before and after a run: what is asked, how it is scored, and that learning is left alone."""

import json

import pytest

from llavakit.chat import answer
from llavakit.core.errors import ConfigError
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.train.retention import Asked, read_questions
from llavakit.train.settings import RetentionConfig
from tests import tiny
from tests.train.test_loop import interrupt_after, losses, tiny_run

COLOURS = ["red", "blue", "green", "yellow"]


@pytest.mark.parametrize(
    ("reference", "said", "right"),
    [
        ("red", "Red.", True),
        ("two", "2", True),  # the normal form of VQAv2
        ("red", "The color of the shape is red.", False),  # a sentence is what must not come
        ("yes", "Yes, there is one.", True),
        ("no", "Yes, there is one.", False),
        ("no", "Nothing like it.", False),
        ("yes", "yes and no", False),
    ],
)
def test_what_counts_as_right(reference, said, right):
    assert Asked(None, reference).is_right(said) is right


def test_every_short_question_is_asked_alone(tmp_path):
    questions = read_questions(RetentionConfig(files=tiny.data_file(tmp_path)))
    # Every second record also asks for a description, which is short where it is not repeated.
    said = ["red", "blue", "green", "yellow", "It is a shape.", "red", "blue", "green", "yellow"]
    assert [question.reference for question in questions] == said
    assert all(len(question.conversation.messages) == 1 for question in questions)
    assert all(len(question.reference.split()) <= 4 for question in questions)
    assert len(read_questions(RetentionConfig(files=tmp_path / "data.json", count=3))) == 3


def test_a_run_that_loses_short_answers_says_so(tmp_path, capsys):
    """Answers are scripted: all right before the first step, two of eight wrong and long after the last."""
    calls = []

    def scripted(checkpoint, talks, max_tokens):
        calls.append(len(talks))
        references = COLOURS * 2
        return references if len(calls) == 1 else ["it is a long story", "so it is", *references[2:]]

    rows = [tiny.record(number, None, [("Which?", COLOURS[number % 4])]) for number in range(8)]
    (tmp_path / "short.json").write_text(json.dumps(rows))
    run = tiny_run(tmp_path, **{"retention.files": tmp_path / "short.json"})
    train(run, answer=scripted)
    assert calls == [8, 8]
    found = json.loads((run.out / "retention.json").read_text())
    assert (found["before"]["short"], found["after"]["short"]) == (1.0, 0.75)
    assert (found["lost"], found["gained"], found["p"]) == (2, 0, 0.5)
    assert (found["before"]["words"], found["after"]["words"]) == (1.0, (5 + 3 + 6) / 8)
    *early, last = read_metrics(run.out / "metrics.jsonl")
    assert last["retention_short"] == 0.75
    assert not any("retention_short" in row for row in early)
    assert "short answers 100.0% before, 75.0% after" in " ".join(capsys.readouterr().out.split())


def test_asking_changes_nothing_and_goes_on_after_a_stop(tmp_path):
    plain = tiny_run(tmp_path, "plain")
    train(plain)
    changes = {"retention.files": tmp_path / "data.json", "retention.count": 3, "retention.max_tokens": 3}
    run, cut = tiny_run(tmp_path, "run", **changes), tiny_run(tmp_path, "cut", **changes)
    train(run, answer=answer)
    assert losses(run) == losses(plain)
    interrupt_after(cut, 3, answer=answer)
    assert list(json.loads((cut.out / "retention.json").read_text())["answers"]) == ["0"]
    train(cut, resume=True, answer=answer)
    assert (cut.out / "retention.json").read_text() == (run.out / "retention.json").read_text()


def test_nothing_to_ask_and_nobody_to_answer_are_errors(tmp_path):
    run = tiny_run(tmp_path, **{"retention.files": tmp_path / "data.json"})
    with pytest.raises(ConfigError, match=r"retention.files is set, but nothing can answer"):
        train(run)
    (tmp_path / "long.json").write_text(
        json.dumps([tiny.record(0, None, [("Why?", "because of all that was said")])])
    )
    with pytest.raises(ConfigError, match=r"retention.files=.*long.json: no question there has an answer"):
        read_questions(RetentionConfig(files=tmp_path / "long.json"))
