"""Lessons are runs, their records are what the model will meet, and figures count what they say they count."""

import json
from random import Random

import pytest

from llavakit.agent.budget import Budget
from llavakit.agent.forms import FORMS, Heard
from llavakit.agent.lessons import Lesson, Recital, hold, switch_off
from llavakit.agent.loop import Agent
from llavakit.agent.measure import Expected, measure
from llavakit.agent.run import begin, reopen
from llavakit.data.dialects.writing import comparable
from llavakit.data.records import read_records
from llavakit.eval.easy_vqa import EasyVqa, is_right
from llavakit.recipes.tool_demo import BUDGET, TOOLS
from llavakit.recipes.tool_pictures import KINDS, Shapes, make_lesson, refused
from llavakit.text.calls import Call, ToolError
from llavakit.tools.registry import Registry
from llavakit.tools.skills import open_tools
from tests.agent.scripted import Fake, call, picture


@pytest.fixture(scope="module")
def registry():
    opened = open_tools(TOOLS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shapes():
    return Shapes(EasyVqa("test"))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_reads_what_it_says(form):
    cards = [Fake("zoom").card, Fake("count").card]
    for heard in (
        Heard("A red one."),
        Heard("", "" if form == "json" else "I look.", (Call("zoom", '{"box": [0.1, 0.2, 1, 1]}'),)),
    ):
        assert FORMS[form].read(FORMS[form].say(heard), cards) == heard


@pytest.mark.parametrize("kind", KINDS)
def test_every_lesson_of_the_demo_is_true_of_its_picture(kind, shapes, registry, tmp_path):
    dice, kept = Random(3), 0
    for number in range(4):
        lesson = make_lesson(kind, shapes, dice, tmp_path / f"{number}.png", str(number))
        record = hold(lesson, registry, FORMS["llava_plus"], tmp_path / "runs" / str(number), BUDGET)
        kept += record is not None
        if record is not None:
            turns = record["conversations"]
            assert turns[-1]["value"] == lesson.answer and turns[-1]["actions"] == []
            assert len(turns) == (2 if kind == "plain" else 4)
            assert lesson.answer not in turns[0]["value"].split(), "the question does not give it away"
    assert kept >= 3


def test_a_record_is_the_conversation_that_the_model_meets(shapes, registry, tmp_path):
    lesson = make_lesson("zoom", shapes, Random(5), tmp_path / "z.png", "z")
    for form in ("llava_plus", "hermes"):
        record = hold(lesson, registry, FORMS[form], tmp_path / form / "run", Budget())
        path = tmp_path / form / "data.json"
        path.write_text(json.dumps([record]))
        (read,) = (one.conversation() for one in read_records(path))
        agent = Agent(Recital(["x"]), registry, FORMS[form])
        with reopen(tmp_path / form / "run") as run:
            assert comparable(read) == comparable(agent.tell(run))
        assert len(read.images) == 2


def test_a_lesson_whose_tool_fails_is_one_only_if_it_is_about_that(shapes, registry, tmp_path):
    lesson, off = make_lesson("count", shapes, Random(5), tmp_path / "c.png", "c"), switch_off(registry)
    form = FORMS["llava_plus"]
    assert hold(lesson, off, form, tmp_path / "a", BUDGET) is None
    assert hold(refused(lesson), registry, form, tmp_path / "b", BUDGET) is None
    record = hold(refused(lesson), off, form, tmp_path / "c", BUDGET)
    assert "Error: switched off" in record["conversations"][2]["value"]
    assert record["conversations"][3]["value"] == f"a guess: {lesson.answer}"


def test_an_answer_that_rests_on_nothing_is_no_lesson(tmp_path):
    tools = Registry([Fake("count", {"count": 4})])
    lesson = Lesson("1", "How many?", (picture(tmp_path),), "5", Call("count", "{}"))
    assert hold(lesson, tools, FORMS["hermes"], tmp_path / "r", Budget()) is None


def broken(arguments, desk):
    raise ToolError("no")


def test_figures_count_what_they_say(tmp_path):
    box = {"box": [0.0, 0.0, 0.5, 1.0]}
    cases = [
        ([call("zoom", box=[0.0, 0.0, 1.0, 1.0]), "red"], "zoom", box, "red"),  # the right tool, IoU 1/2
        (
            [call("count", color="red"), "3"],
            "count",
            {"color": "blue"},
            "4",
        ),  # the right tool, other arguments
        (["7"], "count", {}, "7"),  # missed, and right by luck
        ([call("zoom"), "A cat."], None, {}, "A cat"),  # needless
        ([call("broken"), call("count"), "3"], "count", {}, "3"),  # recovered
        ([call("broken"), "I counted 9."], "count", {}, "3"),  # claims after an error
        (["I cropped it."], None, {}, "No."),  # fabricated
    ]
    runs, expected = [], []
    tools = [Fake("zoom", {"ok": 1}), Fake("count", {"count": 3}), Fake("broken", broken)]
    for number, (lines, name, arguments, answer) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        agent = Agent(Recital(lines), Registry(tools), FORMS["hermes"])
        with begin(tmp_path / str(number) / "run", "What?", budget=Budget(steps=4)) as run:
            list(agent.go(run))
            runs.append(run.state)
        expected.append(Expected((Call(name, json.dumps(arguments)),) if name else (), answer))
    figures = measure(runs, expected, is_right)
    found = {name: (figure.value, figure.count) for name, figure in figures.items()}
    assert found == {
        "answer": (4 / 7, 7), "name": (2 / 5, 5), "arguments": (1 / 5, 5), "box IoU": (0.5, 1),
        "needless": (1 / 2, 2), "missed": (1 / 5, 5),
        "fabricated": (2 / 7, 7), "recovered": (1 / 2, 2), "claimed after error": (1.0, 1),
    }  # fmt: skip


def test_figures_of_nothing_are_none():
    assert measure([], [], is_right)["answer"].value is None
