"""`llavakit agent --remote` and `llavakit serve`, two programs that know each other by OpenAI's words alone."""

import pytest

from llavakit.agent.events import read_events
from llavakit.agent.run import EVENTS
from tests import tiny
from tests.agent.reflex import save_reflex
from tests.agent.scripted import call
from tests.serve.live import process

CALLS = call("crop", box=[0, 0, 0.5, 0.5])


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    model = save_reflex(tmp_path_factory.mktemp("remote") / "m", CALLS, "I cropped it. [call_1]")
    with process(model) as (found, _):
        yield found


@pytest.mark.parametrize("steps", [4, 1])
def test_a_served_model_calls_reads_the_result_and_answers(url, run, tmp_path, steps):
    picture = tiny.picture(tmp_path / "x.png")
    code, out, err = run(
        "agent", "--remote", url, "--image", picture, "--tools", "crop,colors", "--out", tmp_path / "run",
        "--limit", f"steps={steps}", "Cut it.",
    )  # fmt: skip
    assert (code, err) == (0, "")
    events = read_events(tmp_path / "run" / EVENTS)
    [made] = [event for event in events if event.kind == "call"]
    [back] = [event for event in events if event.kind == "returned"]
    assert (made.name, back.value["size"], back.pictures) == ("crop", [20, 15], ("img_2",))
    said = "I cropped it. [call_1]" + ("\n[stopped: 1 steps are used up]" if steps == 1 else "")
    assert events[-1].text == said and said in out
    assert events[0].form == "openai" and (tmp_path / "run" / "img_2-crop.png").exists()
