"""Tools as text and calls out of text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.text.calls import Call
from llavakit.text.hermes import CallReader, calls_text, forced_schema, read_call, tools_text

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
NAMES = frozenset({"look", "zoom"})


def said(name: str = "look", **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def heard(text: str, cuts: list[int], **how) -> list:
    """What a reader makes of the text in pieces, neighbouring texts joined."""
    reader, out = CallReader(NAMES, **how), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        out += reader.add(text[start:end])
    joined: list = []
    for item in [*out, *reader.finish()]:
        if joined and isinstance(item, str) and isinstance(joined[-1], str):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


def test_the_model_is_told_in_the_words_it_was_trained_with():
    text = tools_text("Be kind.", [TOOL])
    assert text.startswith("Be kind.\n\n# Tools\n\nYou may call one or more functions")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    assert text.endswith('{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
    assert tools_text("", [TOOL]).startswith("# Tools")


def test_what_the_history_says_is_what_the_model_said():
    call = Call("look", '{"x": 1}')
    assert calls_text("", [call]) == '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'
    assert heard(calls_text("Well.", [call, call]), []) == ["Well.\n", call, call]


@pytest.mark.parametrize(
    "text",
    [
        "no call at all",
        "<tool_call> is a mark",
        "<tool_call>\n{broken\n</tool_call>",
        said("unknown"),
        '<tool_call>{"name": "look"}</tool_call>',
        '<tool_call>{"name": "look", "arguments": "x"}</tool_call>',
        '<tool_call>{"name": "look", "arguments": {"x": NaN}}</tool_call>',
        '<tool_call>["look"]</tool_call>',
        '<tool_call>{"name": ["look"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": "look", "arguments": {"x": 1e999}}</tool_call>',
        f"<tool_call>{'[' * 100_000}</tool_call>",
        "<tool_call>\n" + '{"name": "look", "argum',
    ],
)
def test_what_is_no_whole_call_stays_text(text):
    assert heard(text, []) == [text]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [said(x=1), said("zoom", box=[0, "é"]), "text ", "<tool_call>", "</tool_call>", "<tool", "\n"]
        ),
        max_size=6,
    ),
    st.data(),
)
def test_the_cuts_do_not_matter(parts, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    assert heard(text, cuts) == heard(text, [])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="<tool_cal>/ab\n", max_size=60), st.data())
def test_nothing_is_lost_where_nothing_is_called(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    assert "".join(heard(text, cuts)) == text


def test_the_first_call_can_be_the_last():
    assert heard(f"a{said(x=1)}b{said(x=2)}", [], only_first=True) == ["a", Call("look", '{"x": 1}')]


def test_a_forced_call_is_one_of_the_functions():
    one = forced_schema({"look": None})
    assert one["properties"] == {
        "name": {"const": "look"},
        "arguments": {"$id": "llavakit:look", "type": "object"},
    }
    assert [each["properties"]["name"]["const"] for each in forced_schema({"a": {}, "b": {}})["anyOf"]] == [
        "a",
        "b",
    ]
    assert read_call('{"name": "look", "arguments": {"a": "ü"}}', NAMES) == Call("look", '{"a": "ü"}')


def test_half_of_a_surrogate_pair_stays_the_escape_it_was():
    text = r'{"name": "look", "arguments": {"x": "\ud83d é"}}'
    call = read_call(text, NAMES)
    assert call is not None and json.loads(call.arguments.encode()) == {"x": "\ud83d é"}
    whole = read_call(text.replace(r"\ud83d", r"\ud83d\ude00"), NAMES)
    assert whole == Call("look", '{"x": "😀 é"}')
