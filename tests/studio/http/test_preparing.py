"""What is found out about a picture that came, step by step."""

import pytest

from llavakit.core.errors import DataError
from llavakit.studio.engines import Engine, Step
from llavakit.studio.http import preparing
from llavakit.studio.http.preparing import Preparation
from llavakit.studio.segment.naming import Noticed
from llavakit.studio.session import Session
from tests.studio.pictures import Square, bench, png, scenery


class InSteps(Square):
    """A segmenter whose steps do as the test says."""

    def __init__(self, **works) -> None:
        self.works = works

    def steps(self, view):
        return [Step(title, work) for title, work in self.works.items()]


@pytest.fixture
def prepare(monkeypatch):
    """Prepares a picture with these steps: the preparation and its session."""
    monkeypatch.setattr(preparing, "notice", lambda view: [Noticed("cup", (1, 2, 30, 40))] * 9)

    def work(**works):
        engines = bench()
        engines.table["square"] = Engine("segment", "in steps", lambda: InSteps(**works))
        session, preparation = Session.create(None, png(scenery()), engines), Preparation()
        preparation.run(session)
        return preparation, session

    return work


def states(preparation):
    return {step["title"]: step["state"] for step in preparation.describe()}


def test_steps_are_told_as_they_go(prepare):
    seen, found = [], {}
    assert states(Preparation()) == {"the picture": "waiting"}

    def look(preparation=None):
        seen.append(states(found["preparation"]))

    def keep(self, session, run=Preparation.run):
        found["preparation"] = self
        run(self, session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preparation, "run", keep)
        preparation, session = prepare(pieces=look, embedding=look)
    assert seen == [
        {"pieces": "under way", "embedding": "waiting", "names": "waiting"},
        {"pieces": "done", "embedding": "under way", "names": "waiting"},
    ]
    assert set(states(preparation).values()) == {"done"}
    assert len(preparation.noticed(session)) == preparing.NOTICED
    session.apply({"do": "paint", "path": [[50, 50]], "width": 20})
    assert preparation.noticed(session)  # the same pixels
    session.apply({"do": "remove"})
    assert preparation.noticed(session) == []


def test_a_step_that_fails_is_told_and_the_rest_goes_on(prepare, caplog):
    def refuse():
        raise DataError("the weights are not here")

    def crash():
        raise ZeroDivisionError("secret words")

    preparation, _ = prepare(pieces=refuse, embedding=crash)
    pieces, embedding, names = preparation.describe()
    assert (pieces["state"], pieces["trouble"]) == ("failed", "the weights are not here")
    assert embedding["state"] == "failed" and "log says where" in embedding["trouble"]
    assert names["state"] == "done"
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text


def test_networks_are_read_before_a_picture_comes(monkeypatch):
    seen, engines = [], bench()
    monkeypatch.setattr(preparing, "notice", lambda view: seen.append(("names", view.size)))
    steps = InSteps(pieces=lambda: seen.append("pieces"))
    engines.table["square"] = Engine("segment", "in steps", lambda: steps)
    preparing.warm_up(engines)
    assert seen == ["pieces", ("names", (64, 64))] and engines.segmenter() is steps
    del engines.chosen["segment"]
    preparing.warm_up(engines)  # is told with the first picture


def test_no_segmenter_is_told(prepare):
    engines = bench()
    del engines.chosen["segment"]
    preparation = Preparation()
    preparation.run(Session.create(None, png(scenery()), engines))
    [only] = preparation.describe()
    assert only["state"] == "failed" and "no engine to segment is chosen" in only["trouble"]
