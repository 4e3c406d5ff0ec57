"""Runs that were interrupted, that waited, and the command line that goes on with them."""

import json

import pytest

from llavakit.agent.events import Piece, Returned, read_events
from llavakit.agent.forms import Hermes
from llavakit.agent.loop import Agent
from llavakit.agent.policy import Decision
from llavakit.agent.run import EVENTS, reopen
from llavakit.core.errors import ConfigError, DataError
from llavakit.model import checkpoint as checkpoints
from llavakit.tools.registry import Registry
from tests import tiny
from tests.agent.scripted import Fake, Scripted, call, kinds, picture, run_agent

LINES = (call("read") + call("write", path="a"), "It is 5.")


def go_on(folder, model, tools, **settings):
    with reopen(folder / "run") as run:
        for event in Agent(model, Registry(tools), Hermes(), **settings).go(run):
            assert isinstance(event, Piece) or event
        return run.state.answered


def cut_after(folder, kind: str) -> None:
    """The run as a kill right after its first event of a kind would have left it."""
    path = folder / "run" / EVENTS
    lines = path.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    path.write_text("".join(lines[: last + 1]) + '{"kind": "hal')


@pytest.mark.parametrize("kind", ["begun", "said", "call", "decided", "running", "returned"])
def test_a_run_killed_anywhere_goes_on_and_ends_alike(tmp_path, kind):
    tool = Fake("read", {"x": 5})
    answer, _ = run_agent(tmp_path, Scripted(call("read"), "It is 5."), [tool])
    before = [event.kind for event in read_events(tmp_path / "run" / EVENTS)]
    cut_after(tmp_path, kind)
    lines = (call("read"), "It is 5.") if kind == "begun" else ("It is 5.",)
    assert go_on(tmp_path, Scripted(*lines), [tool]) == answer
    assert [event.kind for event in read_events(tmp_path / "run" / EVENTS)] == before


def test_a_call_that_may_have_happened_is_not_done_twice(tmp_path):
    tool = Fake("write", {"x": 5}, read_only=False)
    approve = {"ask": lambda *_: Decision("approve")}
    run_agent(tmp_path, Scripted(call("write"), "It is 5."), [tool], **approve)
    cut_after(tmp_path, "running")
    answer = go_on(tmp_path, Scripted("I do not know."), [tool], **approve)
    assert len(tool.asked) == 1 and "whether it was done is not known" in answer.missing[0]


def test_a_run_that_waits_goes_on_with_the_decision(tmp_path):
    reading, writing = Fake("read", {"x": 5}), Fake("write", read_only=False)
    model = Scripted(*LINES)
    answer, _ = run_agent(tmp_path, model, [reading, writing])
    assert answer is None
    assert go_on(tmp_path, model, [reading, writing]) is None, "still nobody there"
    answer = go_on(tmp_path, model, [reading, writing], ask=lambda *_: Decision("approve"))
    assert answer.used == ("call_1", "call_2") and writing.asked == [{"path": "a"}]


def test_pictures_keep_their_names(tmp_path):
    run_agent(
        tmp_path, Scripted(call("read") + call("write"), "x"), [Fake("read"), Fake("write", read_only=False)]
    )
    with reopen(tmp_path / "run") as run:
        assert list(run.desk.names) == ["img_1"] and run.desk.frame("img_1").size == (40, 30)


def test_a_folder_without_a_run_and_a_broken_file_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is no run"), reopen(tmp_path):
        pass
    run_agent(tmp_path, Scripted("x"))
    path = tmp_path / "run" / EVENTS
    path.write_text(path.read_text() + '{"kind": "said", "text": 1}\n')
    with pytest.raises(DataError, match=r"run\.jsonl:4: no event of a run"), reopen(tmp_path / "run"):
        pass


@pytest.fixture
def cli(run, tmp_path, monkeypatch):
    """`llavakit agent` in a folder of its own, with a model that says given lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    picture(tmp_path)

    def call_it(lines, *words, stdin=""):
        monkeypatch.setattr("llavakit.cli.agent.open_asked", lambda *_: Scripted(*lines))
        return run("agent", *words, "--model", "m", "--tools", "crop,blur", stdin=stdin)

    return call_it


CROP = call("crop", box=[0, 0, 0.5, 0.5])


def test_a_run_on_the_command_line_shows_its_tree_and_leaves_pictures(cli, run, tmp_path):
    code, out, err = cli([CROP, "I cropped it."], "--image", "x.png", "Cut it.", "--out", "one")
    assert (code, err) == (0, "")
    assert "call_1 crop(" in out and "I cropped it. [call_1]" in out and "img_2: one/img_2-crop.png" in out
    assert (tmp_path / "one" / "img_2-crop.png").exists()
    code, _, err = cli(["x"], "--image", "x.png", "Cut it.", "--out", "one")
    assert code == 2 and "has a run already" in err
    code, again, _ = run("agent", "--resume", "one")
    assert code == 0 and again.splitlines()[-4:] == out.splitlines()[-4:], (
        "it is shown again, without a model"
    )


def test_a_call_that_a_rule_asks_about_waits_and_goes_on(cli, tmp_path):
    (tmp_path / "p.yaml").write_text("rules: [{tool: crop, do: ask, why: it cuts}]")
    code, out, err = cli([CROP], "--image", "x.png", "Cut it.", "--out", "one", "--policy", "p.yaml")
    assert code == 1 and "llavakit agent --resume one" in err and "(it cuts)" in out
    code, out, err = cli(["I cropped it."], "--resume", "one", "--policy", "p.yaml", stdin="?\na\n")
    assert code == 0 and "a always" in out and "I cropped it. [call_1]" in out
    code, out, err = cli([CROP, "Cut."], "--image", "x.png", "Cut it.", "--out", "two", "--policy", "p.yaml")
    assert code == 0, "always holds in other runs too"


def test_a_run_that_is_interrupted_says_how_to_go_on_and_does(cli, tmp_path, monkeypatch):
    def shown(self, events):
        for event in events:
            if isinstance(event, Returned):
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llavakit.agent.screen.Screen.show", shown)
        code, _, err = cli([CROP], "--image", "x.png", "Cut it.", "--out", "one")
    assert code == 130 and "what happened is kept; go on with: llavakit agent --resume one" in err
    code, out, err = cli(["I cropped it."], "--resume", "one")
    assert (code, err) == (0, "") and "I cropped it. [call_1]" in out


def test_edited_arguments_are_what_runs(cli, tmp_path):
    (tmp_path / "p.yaml").write_text("reading: ask")
    typed = 'e\n{"box": \ne\n{"box": [0, 0, 1, 0.5]}\n'
    code, out, _ = cli(
        [CROP, "Cut."], "--image", "x.png", "Cut it.", "--out", "one", "--policy", "p.yaml", stdin=typed
    )
    assert code == 0 and '"size": [40, 15]' in out.replace("\n", "")


def test_marked_places_are_told(cli, tmp_path):
    import PIL.Image

    sketch = PIL.Image.new("RGBA", (80, 60))
    sketch.paste((255, 0, 0, 255), (20, 30, 40, 45))
    sketch.save(tmp_path / "s.png")
    code, _, _ = cli(
        ["x"], "--image", "x.png", "What?", "--out", "one", "--box", "10,5,20,15", "--sketch", "s.png"
    )
    begun = read_events(tmp_path / "one" / EVENTS)[0]
    assert code == 0
    assert begun.question == "What?\nInput box: [0.25, 0.17, 0.5, 0.5]\nInput box: [0.25, 0.5, 0.5, 0.75]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a question, or --resume"),
        (["q", "--resume", "x"], "give a question, or --resume"),
        (["--resume", "gone"], "gone is no run"),
        (["q", "--image", "gone.png"], "gone.png"),
        (["q", "--image", "x.png", "--box", "1,2"], "write left,top,right,bottom"),
        (["q", "--image", "x.png", "--box", "90,90,95,95"], "covers nothing of img_1"),
        (["q", "--limit", "stepz=1"], "did you mean"),
        (["q", "--mcp", "gone.json"], "gone.json: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(cli, words, said):
    code, _, err = cli(["x"], *words)
    assert code == 2 and said in err and "\n" not in err.strip()


def test_a_real_tiny_model_held_to_the_schema_calls_real_tools(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    checkpoints.save(tiny.checkpoint(), tmp_path / "m")
    picture(tmp_path)
    code, _, err = run(
        "agent", "--model", "m", "--image", "x.png", "--tools", "calculate", "--form", "json", "--limit", "steps=2",
        "--max-tokens", 60, "--temperature", 1, "--out", "r", "What?",
    )  # fmt: skip
    assert (code, err) == (0, "")
    events = read_events(tmp_path / "r" / EVENTS)
    assert events[-1].kind == "answered" and kinds(events).count("said") >= 1
