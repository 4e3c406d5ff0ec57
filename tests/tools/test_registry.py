"""One place runs calls: what a model can cause is a result that says what is wrong."""

import time

import pytest

from llavakit.core.errors import ConfigError, DataError
from llavakit.text.calls import Call, Card, Json, ToolError, ToolUnavailable
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Made, Registry


class Scripted:
    """A tool that does what the test says."""

    def __init__(self, name, run):
        self.card, self._run, self.asked = Card(name, "", seconds=5), run, []

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        self.asked.append((arguments, seconds))
        return self._run()

    def close(self) -> None:
        self.asked.append("closed")


def raising(error):
    def run():
        raise error

    return run


@pytest.fixture
def desk(tmp_path):
    return Desk(Artifacts(tmp_path))


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_a_call_runs_with_its_arguments_and_the_nearer_limit(desk):
    look = Scripted("look", lambda: Made({"n": 1}, ("img_2",)))
    registry = Registry([look])
    result = registry.call(Call("look", ' {"x": "{}"} ', "c1"), desk, deadline=soon())
    assert (result.error, result.value, result.pictures, result.call.id) == (None, {"n": 1}, ("img_2",), "c1")
    assert result.text == '{"n": 1, "pictures": ["img_2"]}'
    registry.call(Call("look", ""), desk, deadline=soon(1))
    registry.close()
    (first, limit), (none, nearer), closed = look.asked
    assert (first, none, closed) == ({"x": "{}"}, {}, "closed") and limit == 5 and nearer <= 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Call("lok", "{}"), "did you mean 'look'?"),
        (Call("x" * 10_000, "{}"), "no tool"),
        (Call("look", "{'a': 1}"), "not JSON"),
        (Call("look", "[1]"), "must be a JSON object, not list"),
        (Call("look", '{"a": NaN}'), "NaN is not JSON"),
        (Call("look", "[" * 100_000), "not JSON"),
        (Call("bad", "{}"), "no such color"),
        (Call("broken", "{}"), "not an image"),
        (Call("gone", "{}"), "took over 5 s"),
    ],
)
def test_what_goes_wrong_is_the_result(desk, call, says):
    registry = Registry(
        [
            Scripted("look", Made),
            Scripted("bad", raising(ToolError("no such color"))),
            Scripted("broken", raising(DataError("not an image"))),
            Scripted("gone", raising(ToolUnavailable("took over 5 s"))),
        ]
    )
    result = registry.call(call, desk, deadline=soon())
    assert says in str(result.error) and result.text.startswith("Error: ") and len(result.text) < 1000
    assert result.value == {} and result.pictures == ()


def test_after_the_deadline_nothing_is_begun(desk):
    look = Scripted("look", Made)
    assert "no time" in str(Registry([look]).call(Call("look", ""), desk, deadline=soon(-1)).error)
    assert look.asked == []


def test_tools_are_listed_in_one_order_and_two_of_a_name_are_refused():
    make = [Scripted(name, Made) for name in ("zoom", "crop")]
    assert [card.name for card in Registry(make).cards] == ["crop", "zoom"]
    with pytest.raises(ConfigError, match="two tools"):
        Registry([*make, Scripted("zoom", Made)])
