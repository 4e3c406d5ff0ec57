"""Calls in a model's words become commands, or one line; places are in the unit of the model's family."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavakit.studio.commands import read_command
from llavakit.studio.conversing import sight_of
from llavakit.studio.proposals import FUNCTIONS, Sight, instructions, read, tools
from llavakit.vision.plan import ImageConfig

LLAVA15 = ImageConfig(kind="pad", size=336)
SIGHT = Sight((400, 200))


def called(name: str, **arguments) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize(
    ("call", "commands"),
    [
        (called("remove"), [{"do": "remove"}]),
        (called("remove", object="the cat"), [{"do": "select", "text": "the cat"}, {"do": "remove"}]),
        (called("select", box=[0, 0, 0.5, 1]), [{"do": "select", "box": [0, 0, 200, 200]}]),
        (called("move", dx=-0.25, dy=0.5), [{"do": "move", "dx": -100, "dy": 100}]),
        (called("resize", factor=2), [{"do": "resize", "factor": 2}]),
        (called("rotate", degrees=-90), [{"do": "rotate", "degrees": -90}]),
        (called("replace", object="dog", prompt="a fox"),
         [{"do": "select", "text": "dog"}, {"do": "replace", "prompt": "a fox"}]),
        (called("edit", prompt="make it night"), [{"do": "edit", "prompt": "make it night"}]),
    ],
)  # fmt: skip
def test_every_function_becomes_commands_that_the_editor_knows(call, commands):
    reading = read(f"Let me see. {call} Agreed?", SIGHT)
    assert json.loads(json.dumps(reading.commands)) == commands and reading.troubles == ()
    assert reading.text == "Let me see.  Agreed?"
    for command in reading.commands:
        read_command(command)


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call>", "<tool_call>remove</tool_call>", called("fly"), called("move", dx=7),
        called("remove", box=[0, 0, 400, 200]),
        called("rotate"), called("remove", layer=0), "<tool_call>[]</tool_call>",
        '<tool_call>{"arguments": 1}</tool_call>',
        f"<tool_call>{'[' * 9000}</tool_call>",
    ],
)  # fmt: skip
def test_calls_that_make_no_sense_are_one_line(call):
    reading = read(f"Well. {call}", SIGHT)
    assert reading.text == "Well." and reading.commands == ()
    assert len(reading.troubles) == 1 and "\n" not in reading.troubles[0]


def test_places_are_read_in_fractions_and_nothing_else_is_a_place():
    reading = read(
        "Here [0.1, 0.2, 0.5, 0.6], not [1, 2, 3, 4], not [0.5, 0.5, 0.1, 0.1], not [0.1, 0.2].", SIGHT
    )
    assert reading.boxes == ((40, 40, 200, 120),)


@given(st.text(max_size=300))
def test_whatever_a_model_says_is_read(said):
    reading = read(said, SIGHT)
    assert all(len(box) == 4 for box in reading.boxes)
    for command in reading.commands:
        read_command(command)


def test_the_model_is_told_of_every_function():
    assert [tool["function"]["name"] for tool in tools()] == list(FUNCTIONS)
    assert all(tool["function"]["description"] for tool in tools())
    assert all("name" not in tool["function"]["parameters"]["properties"] for tool in tools())
    assert all(f'"{name}"' in instructions() for name in FUNCTIONS)


def test_boxes_are_read_in_the_unit_of_the_family():
    """The same place of a wide picture, as fractions, thousandths, and pixels of the padded square that is seen."""
    said = {"0-1": [0.25, 0.5, 0.5, 1], "0-1000": [250, 500, 500, 1000], "px": [100, 100, 200, 200]}
    for unit, box in said.items():
        reading = read(f"There {box}. {called('remove', box=box)}", Sight((400, 200), unit))
        assert reading.boxes == ((100, 100, 200, 200),)
        assert reading.commands[0] == {"do": "select", "box": (100, 100, 200, 200)} and not reading.troubles
    square = sight_of((400, 200), "input", LLAVA15)
    assert read("There [84, 168, 168, 252].", square).boxes == ((100, 100, 200, 200),)
    assert read("There [0, 0, 336, 336].", square).boxes == (
        (0, 0, 400, 200),
    )  # its padding is not the picture
    assert read("There [0, 0, 336, 80].", square).boxes == ()
    assert "thousand" not in instructions() and "from 0 to 1000" in instructions("0-1000")


def test_a_large_picture_is_seen_smaller():
    assert read("[10, 10, 100, 50]", sight_of((4000, 2000), "px", None)).boxes == ((40, 40, 400, 200),)
