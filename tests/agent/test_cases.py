"""Cases with right calls, an agent in the place of a model, and the verbs that measure with both."""

import json

import pytest

from llavakit.agent.cases import ask_cases, read_cases
from llavakit.agent.forms import FORMS
from llavakit.agent.lessons import Recital
from llavakit.agent.loop import Agent
from llavakit.agent.opening import AgentConfig
from llavakit.agent.responder import AgentResponder
from llavakit.core.errors import DataError
from llavakit.text.conversation import Conversation, Message, Text, Video, assistant, system, user
from llavakit.tools.registry import Registry
from tests.agent.scripted import Fake, Scripted, call, picture

CASES = [
    {"id": "a", "question": "How many?", "image": "x.png", "calls": [{"name": "count"}], "answer": "3"},
    {"id": "b", "question": "What is it?", "image": ["x.png"], "answer": "a ball"},
]


def write(folder, rows):
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_cases_are_asked_once_and_measured(tmp_path):
    picture(tmp_path)
    cases = read_cases(write(tmp_path, CASES))
    tools = Registry([Fake("count", {"count": 3})])
    for lines in (
        [call("count"), "3 [call_1]", "A ball."],
        [],
    ):  # the second time nothing is left to be asked
        agent = Agent(Recital(lines), tools, FORMS["hermes"])
        figures = ask_cases(agent, cases, tmp_path, tmp_path / "out", AgentConfig())
        assert {name: one.value for name, one in figures.items() if one.count} == {
            "answer": 1.0, "name": 1.0, "arguments": 1.0, "needless": 0.0, "missed": 0.0, "fabricated": 0.0,
        }  # fmt: skip
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["name"] == {"value": 1.0, "count": 1}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no case in it"),
        ([CASES[0], CASES[0]], "cases.jsonl:2: the id 'a' is there twice"),
        ([{"id": "../x", "question": "q"}], "cases.jsonl:1: id: "),
        ([{"id": "a", "question": "q", "cals": []}], "cases.jsonl:1: cals: "),
        ([{"id": "a", "question": "q", "calls": [{"arguments": {}}]}], r"cases.jsonl:1: calls\.0\.name: "),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        read_cases(write(tmp_path, rows))


def test_an_agent_answers_as_a_model_does(tmp_path):
    model = Scripted(call("count"), "There are 3.", "Three.")
    bot = AgentResponder(model, Registry([Fake("count", {"count": 3})]), AgentConfig(runs=tmp_path))
    first = Conversation((system("Be brief."), user("How many?", [picture(tmp_path)])))
    second = Conversation((*first.messages, assistant("3"), Message("user", (Text("In words?"),))))
    answers = bot.answers([first, second])
    assert [one.text for one in answers] == ["There are 3.", "Three."] and answers[0].finish == "stop"
    assert "".join(bot.stream(second)) == "Three."
    heard = model.heard[2].messages
    assert heard[0].text.startswith("Be brief.") and [message.role for message in heard] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert len(heard[-1].images) == 1, "all pictures stand with the last question"
    with pytest.raises(DataError, match="no videos"):
        bot.describe(Video(tmp_path))


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path)

    def says(*lines):
        monkeypatch.setattr("llavakit.cli.measuring.open_asked", lambda *_: Recital(lines))

    return says


CALC = {"id": "a", "question": "What is 2+3?", "calls": [{"name": "calculate"}], "answer": "5"}


def test_measure_prints_figures_with_their_counts(run, scripted, tmp_path):
    write(tmp_path, [CALC])
    words = ["tools", "measure", "cases.jsonl", "--model", "m", "--agent", "tools=[calculate]"]
    scripted(call("calculate", expression="2+3"), "5")
    code, out, err = run(*words, "--out", "with")
    assert (code, err) == (0, "")
    assert "name                 100.0 %  of 1" in out and "answer               100.0 %  of 1" in out
    scripted(call("calculate", expression="2+3"), "It is 6.")
    code, out, _ = run(*words, "--out", "without", "--without")
    assert code == 0 and "answer                 0.0 %  of 1" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--agent", "tols=[x]"], "did you mean 'tools'"),
        (["--agent", "tools=[cuont_shapes]"], "unknown tool 'cuont_shapes'"),
        (["--agent", "budget.steps=0"], "budget.steps=0: input should be greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_exist_are_one_line(run, scripted, tmp_path, words, said):
    write(tmp_path, [CALC])
    scripted("x")
    code, _, err = run("tools", "measure", "cases.jsonl", "--model", "m", "--out", "o", *words)
    assert code == 2 and said in err and "\n" not in err.strip()
