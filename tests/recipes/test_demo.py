"""The demo's parts: its data is honest, and the whole command runs on a few steps of the real thing."""

import json
import signal
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

import llavakit
from llavakit.core.errors import Interrupted
from llavakit.data.records import read_records
from llavakit.eval.easy_vqa import Question
from llavakit.recipes import demo
from llavakit.recipes.easy_vqa import (
    COLOURS,
    SHAPES,
    EasyVqa,
    Phase,
    kind_of,
    write_captions,
    write_questions,
)
from llavakit.train.metrics import Metrics


@pytest.fixture(scope="module")
def train():
    return EasyVqa("train")


def test_the_package_holds_what_it_says(train):
    test = EasyVqa("test")
    assert (len(train.questions), len(train.all())) == (4000, 38575)
    assert (len(test.questions), len(test.all())) == (1000, 9673)
    assert len({question.answer for question in train.all()}) == 13
    assert not {q.image for q in train.all()} & {q.image for q in test.all()}


def test_captions_say_what_the_answers_say(train, tmp_path):
    write_captions(train, tmp_path / "captions.json")
    records = read_records(tmp_path / "captions.json", train.folder)
    assert len(records) > 3000
    for record in records:
        talk = record.conversation()
        _, colour, shape = talk.messages[1].text.split()
        picture = int(talk.images[0].source.stem)
        for question in train.questions[picture]:
            if question.answer in COLOURS:
                assert question.answer == colour
            if question.answer in SHAPES:
                assert question.answer == shape


def test_question_records_are_training_questions_in_the_wanted_shares(train, tmp_path):
    phases = [Phase(600, open=0.5, present=0.5, absent=0), Phase(600, open=0.2, present=0.4, absent=0.4)]
    path = tmp_path / "questions.json"
    write_questions(train, path, phases=phases, per_record=2, seed=0)
    known = {(q.image.name, q.text, q.answer) for q in train.all()}
    rows = json.loads(path.read_text())
    for phase, part in zip(phases, (rows[:600], rows[600:]), strict=True):
        asked = []
        for row in part:
            talk = row["conversations"]
            for question, answer in zip(talk[::2], talk[1::2], strict=True):
                text = question["value"].removeprefix("<image>\n")
                assert (row["image"], text, answer["value"]) in known
                asked.append(Question(train.folder, text, answer["value"]))
        kinds = Counter(kind_of(question) for question in asked)
        for kind in ("open", "present", "absent"):
            assert kinds[kind] / len(asked) == pytest.approx(phase.share(kind), abs=0.06)
        for kind in ("present", "absent"):
            answers = Counter(question.answer for question in asked if kind_of(question) == kind)
            assert not answers or 0.4 < answers["yes"] / answers.total() < 0.6, "guessing must not pay"
    again = tmp_path / "again.json"
    write_questions(train, again, phases=phases, per_record=2, seed=0)
    assert again.read_text() == path.read_text()


def few_pictures(split):
    """The tower's features of all 4,000 would take most of the test."""
    data = EasyVqa(split)
    data.questions = {picture: data.questions[picture] for picture in sorted(data.questions)[:80]}
    return data


@pytest.mark.slow
def test_the_command_runs_stops_and_goes_on(tmp_path, monkeypatch, capsys):
    """Two steps a stage on the real parts; Ctrl-C in the second stage; --resume; report, pictures, chat."""
    phases = (replace(demo.QUICK.phases[0], records=30),)
    small = replace(demo.QUICK, caption_steps=2, question_steps=2, test_pictures=3, phases=phases)
    monkeypatch.setattr(demo, "QUICK", small)
    monkeypatch.setattr(demo, "EasyVqa", few_pictures)
    monkeypatch.setattr(demo, "SHEET_QUESTIONS", 8)
    add, out = Metrics.add, tmp_path / "demo"

    def press(self, row):
        add(self, row)
        if self.path.parent.name == "stage2":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Metrics, "add", press)
    with pytest.raises(Interrupted, match=r"step 1 of 2; .*llavakit demo --resume --out "):
        demo.run_demo(out, full=False, resume=False)
    monkeypatch.setattr(Metrics, "add", add)
    assert isinstance(llavakit.load(out), llavakit.Chat), "an interrupted demo leaves a model that loads"

    demo.run_demo(out, full=False, resume=True)
    told = capsys.readouterr().out
    assert "already at its last step" in told
    assert "the quick profile learns to name things" in told, "two steps teach nobody to look"
    assert f"--image {out}/pictures/0.png" in " ".join(told.split())
    with Image.open(out / "pictures" / "2.png") as image:
        assert image.size == (64, 64)
    report = json.loads((out / "report.json").read_text())
    assert report["questions"] == len(EasyVqa("test").all(3))
    for name in ("model", "shuffled", "blind"):
        assert set(report[name]) == {"all", "open", "yes_no"}
        assert all(0 <= value <= 1 for value in report[name].values())
    assert report["train_seconds"] > 0
    for picture in ("answers.png", "loss.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 300
