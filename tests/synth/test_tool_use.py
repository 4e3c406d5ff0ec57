"""Lessons that a model writes: real calls, answers that rest on them, and nothing of what was known in them."""

import json

import PIL.Image
import pytest

from llavakit.agent.forms import FORMS
from llavakit.data.records import read_records
from llavakit.engine.responder import Answer
from llavakit.engine.sampler import Sampling
from llavakit.synth.facts import Facts
from llavakit.synth.items import Items
from llavakit.synth.tool_use import LESSONS_FILE, Lessons, write_lessons
from llavakit.tools.registry import Registry
from tests.agent.scripted import Fake, Scripted


class Writer(Scripted):
    """Says JSON by what it is asked for."""

    def __init__(self, asked=None, answer="There are 7 of them.", plain=None):
        super().__init__("")
        self.asked = asked or {"question": "How many are there?", "thoughts": "I count.", "arguments": {}}
        self.answer, self.plain = answer, plain or {"question": "What is it?", "answer": "A ball."}

    def answers(self, conversations, *, sampling):
        (talk,) = conversations
        self.heard.append(talk)
        self.how.append(sampling)
        text = talk.messages[0].text
        said = (
            {"answer": self.answer}
            if "A tool gave" in text
            else self.asked
            if "A tool:" in text
            else self.plain
        )
        return [Answer(said if isinstance(said, str) else json.dumps(said), "stop")]


@pytest.fixture
def things(tmp_path):
    """A folder of pictures and what is known of them."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        PIL.Image.new("RGB", (20, 20), (number * 50, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"A ball of kind {number}."} for number in range(3)]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(Items(tmp_path / "pictures")), Facts([tmp_path / "facts.jsonl"])


def make(tmp_path, things, writer, *, plain=0.0, gives=None, form="llava_plus"):
    tools = Registry([Fake("count", gives or {"count": 7})])
    out = tmp_path / "out"
    made = Lessons(writer, tools, FORMS[form], out, plain=plain, how=Sampling(seed=1))
    kept, new = write_lessons(made, *things, out / LESSONS_FILE, each=1)
    return made, kept, new, out / LESSONS_FILE


@pytest.mark.parametrize("form", FORMS)
def test_a_lesson_is_a_record_with_a_real_result(tmp_path, things, form):
    writer = Writer()
    made, kept, new, path = make(tmp_path, things, writer, form=form)
    assert (kept, new, dict(made.dropped)) == (3, 3, {})
    talks = [record.conversation() for record in read_records(path)]
    turns = talks[0].messages[-4:]
    assert "How many are there?" in turns[0].text and len(turns[0].images) == 1
    assert "count" in turns[1].text and "7" in turns[2].text and "There are 7 of them." in turns[3].text
    said = "".join(message.text for talk in talks for message in talk.messages)
    assert "A ball of kind" not in said, "what is known is the writer's alone"
    assert "A ball of kind 0." in writer.heard[0].messages[0].text
    assert json.loads(writer.how[0].json_schema)["properties"]["arguments"]["type"] == "object"


def test_some_take_no_tool_in_the_same_form(tmp_path, things):
    _, kept, _, path = make(tmp_path, things, Writer(), plain=1.0)
    row = json.loads(path.read_text().splitlines()[0])
    assert kept == 3 and row["conversations"][1] == {
        "from": "gpt", "thoughts": "I can see that without a tool.", "actions": [], "value": "A ball.",
    }  # fmt: skip


def broken(arguments, desk):
    return None


@pytest.mark.parametrize(
    ("writer", "gives", "reason"),
    [
        (Writer(answer="The caption says there are 7."), None, "speaks of what was known"),
        (Writer(answer="The tool found 7."), None, "names a tool"),
        (Writer(answer="I am sorry, I cannot see the image."), None, "refuses"),
        (Writer(answer="There are some."), None, "the answer does not rest on the result"),
        (Writer(answer="There are 7 of them."), broken, "the tool failed"),
        (
            Writer({"question": "Are there 7 of them?", "thoughts": "x", "arguments": {}}, "7"),
            None,
            "the question gives the answer away",
        ),
        (Writer("nonsense"), None, "unread"),
    ],
)  # fmt: skip
def test_what_is_no_lesson_is_dropped_and_counted(tmp_path, things, writer, gives, reason):
    made, kept, _, path = make(tmp_path, things, writer, gives=gives)
    assert kept == 0 and dict(made.dropped) == {reason: 3}
    assert [entry.name for entry in path.parent.iterdir()] == [LESSONS_FILE], "nothing of it is left"


def test_it_goes_on_where_it_ended(tmp_path, things):
    writer = Writer()
    _, _, _, path = make(tmp_path, things, writer)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + '{"unique')
    writer.heard.clear()
    _, kept, new, _ = make(tmp_path, things, writer)
    assert (kept, new, len(writer.heard)) == (3, 1, 2) and len(path.read_text().splitlines()) == 3


def test_pictures_of_which_nothing_is_known_are_counted(tmp_path, things):
    made, kept, _, _ = make(tmp_path, (things[0], Facts([])), Writer())
    assert kept == 0 and dict(made.dropped) == {"nothing is known": 3}


def test_the_verb_tells_what_was_dropped(run, tmp_path, things, monkeypatch):
    monkeypatch.setattr("llavakit.cli.teaching.open_asked", lambda *_: Writer(answer="It is 9."))
    words = ["tools", "lessons", tmp_path / "pictures", "--facts", tmp_path / "facts.jsonl", "--plain", 0]
    code, out, err = run(*words, "--tools", "count_shapes", "--out", tmp_path / "o", "--model", "m")
    assert (code, err) == (0, "") and "dropped 3: the answer does not rest on the result" in out
    code, _, err = run(*words, "--tools", "cuont", "--out", tmp_path / "o", "--model", "m")
    assert code == 2 and "unknown tool 'cuont'" in err
