"""Scores and controls by hand."""

from pathlib import Path

import PIL.Image
import pytest

from llavakit.chat import Chat
from llavakit.engine.engine import Engine
from llavakit.eval.easy_vqa import Question, is_right
from llavakit.eval.sheet import draw_sheet
from llavakit.eval.vqa import accuracy, answer_questions, guess_blind, shuffle_images
from llavakit.text.conversation import Conversation, user
from tests import tiny

A, B, C = (Path(f"{name}.png") for name in "abc")


@pytest.mark.parametrize(
    ("answer", "right"),
    [("red", True), (" Red. ", True), ("red circle", False), ("", False), ("reddish", False)],
)
def test_exact_match(answer, right):
    assert is_right(answer, "red") is right


def test_accuracy_is_split_by_kind():
    questions = [
        Question(A, "?", "red"),
        Question(A, "?", "blue"),
        Question(A, "?", "yes"),
        Question(B, "?", "no"),
    ]
    assert accuracy(questions, ["red", "red", "yes", "no"]) == {"all": 0.75, "open": 0.5, "yes_no": 1.0}


def test_shuffling_gives_every_image_away_and_keeps_its_questions_together():
    questions = [Question(image, text, "x") for image in (A, B, C) for text in ("1", "2")]
    shuffled = shuffle_images(questions)
    assert [q.text for q in shuffled] == [q.text for q in questions]
    assert all(mine.image != theirs.image for mine, theirs in zip(questions, shuffled, strict=True))
    assert [q.image for q in shuffled[::2]] == [q.image for q in shuffled[1::2]]
    assert {q.image for q in shuffled} == {A, B, C}


def test_the_blind_guesser_knows_only_the_text():
    train = [Question(A, "what?", "red"), Question(B, "what?", "red"), Question(C, "what?", "blue")]
    train += [Question(A, "is it?", "no")]
    asked = [Question(A, "what?", "blue"), Question(A, "is it?", "yes"), Question(A, "new?", "x")]
    assert guess_blind(train, asked) == ["red", "no", "red"]


def test_answers_are_those_of_asking_one_by_one(tmp_path):
    ck = tiny.checkpoint()
    chat = Chat(Engine(ck.model, frozenset()), tiny.encoder())
    pictures = [tiny.picture(tmp_path / f"{n}.png", n) for n in range(2)]
    questions = [
        Question(picture, text, "x") for picture in pictures for text in ("What color?", "Yes or no?")
    ]
    from llavakit.eval.vqa import SHORT

    alone = [chat.batch([Conversation((user(q.text, [q.image]),))], sampling=SHORT)[0] for q in questions]
    assert answer_questions(chat, questions, "test") == alone


def test_the_sheet_has_a_cell_for_every_question(tmp_path):
    picture = tiny.picture(tmp_path / "a.png", size=(64, 30))
    questions = [Question(picture, "what is the colour of this rather long question about it?", "red")] * 5
    draw_sheet(questions, ["red", "blue", "red", "a very long wrong answer", ""], tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 4 * 176
        assert sheet.size[1] > 2 * 176
        colours = {colour for _, colour in sheet.getcolors(maxcolors=2**20)}
    assert (20, 120, 60) in colours
    assert (190, 30, 40) in colours
