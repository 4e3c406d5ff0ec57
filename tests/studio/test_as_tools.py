"""The editor's commands as tools of an agent: on a document, one step of undo each, asked about first."""

import numpy as np
import PIL.Image
import pytest

from llavakit.agent.policy import Policy, Rule
from llavakit.studio.as_tools import document_tools
from llavakit.studio.defaults import default_bench
from llavakit.studio.render import flatten
from llavakit.studio.session import Session
from tests.agent.scripted import Scripted, call, run_agent
from tests.studio.pictures import png


@pytest.fixture
def session(tmp_path):
    """A red square on green, kept in a folder."""
    pixels = np.full((96, 128, 3), (60, 140, 60), np.uint8)
    pixels[30:60, 40:80] = (200, 30, 30)
    opened = Session.create(tmp_path / "doc", png(pixels), default_bench())
    yield opened
    opened.close()


def red(pixels) -> np.ndarray:
    return (pixels[..., 0].astype(int) - pixels[..., 1]) > 60


REMOVE = call("document_remove", box=[0.25, 0.25, 0.7, 0.7])


def test_a_call_edits_the_document_shows_it_and_is_one_step_of_undo(session, tmp_path):
    model = Scripted(REMOVE, call("document_undo"), "It is back again. [call_2]")
    rule = Rule(tool="document_*", do="approve")
    answer, events = run_agent(tmp_path, model, document_tools(session), policy=Policy(rules=(rule,)))
    assert answer.used == ("call_1", "call_2")
    removed, back = (event for event in events if event.kind == "returned")
    without, whole = (open_picture(tmp_path, event) for event in (removed, back))
    assert without.shape == (96, 128, 3) and red(without).sum() < 20 < 1000 < red(whole).sum()
    assert red(flatten(session.scene)).sum() > 1000
    assert [image.source for message in model.heard[1].messages for image in message.images][
        -1
    ].suffix == ".png"


def open_picture(folder, event) -> np.ndarray:
    [name] = event.pictures
    return np.asarray(PIL.Image.open(folder / "run" / "artifacts" / f"{event.names[name]}.png"))


def test_without_a_rule_a_person_is_asked_and_nothing_has_changed(session, tmp_path):
    answer, events = run_agent(tmp_path, Scripted(REMOVE), document_tools(session))
    assert answer is None and events[-1].kind == "waiting"
    assert red(flatten(session.scene)).sum() > 1000


def test_arguments_that_do_not_fit_and_edits_that_cannot_be_done_are_results(session, tmp_path):
    model = Scripted(
        call("document_move", dx=3),
        call("document_replace", prompt="a hat"),
        call("document_undo"),
        "No. [call_1]",
    )
    rule = Rule(tool="document_*", do="approve")
    _, events = run_agent(tmp_path, model, document_tools(session), policy=Policy(rules=(rule,)))
    errors = [event.error for event in events if event.kind == "returned"]
    assert "dx: Input should be less than or equal to 1" in errors[0] and all(errors)
