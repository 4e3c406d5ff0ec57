"""Tools as text and calls out of text."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.text.calls import Call, ToolError, read_arguments
from llavakit.text.hermes import CallReader, calls_text, forced_schema, read_call, tools_text
from llavakit.text.llava_plus import action_of, read_answer, write_answer

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
            [
                said(x=1),
                said("zoom", box=[0, "é"]),
                said(x="</tool_call>"),
                "text ",
                "<tool_call>",
                "</tool_call>",
                "<tool",
                "\n",
                '"',
            ]
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


@pytest.mark.parametrize("said", ['{"name": "look"}', '{"name": "look", "arguments": null}'])
def test_no_arguments_are_none(said):
    assert heard(f"<tool_call>{said}</tool_call>", []) == [Call("look", "{}")]


values = st.recursive(
    st.none()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from(["</tool_call>", 'a "\n</tool_call>', "<tool_call>", "\\"]),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.dictionaries(st.text(max_size=6), values, max_size=3), min_size=1, max_size=3), st.data())
def test_calls_come_back_from_every_form_as_they_were(arguments, data):
    """Braces, marks and quotes inside of texts are texts; in pieces, as OpenAI's JSON, as LLaVA-Plus' actions."""
    calls = [Call("look", json.dumps(each)) for each in arguments]
    written = calls_text("Well. {", calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    words, *found = heard(written, cuts)
    assert words.strip() == "Well. {"
    assert [json.loads(call.arguments) for call in found] == arguments
    plus = read_answer(write_answer("thoughts", [action_of(call) for call in calls], "value"))
    assert plus.problem is None and [json.loads(call.arguments) for call in plus.calls] == arguments
    assert [read_arguments(call) for call in calls] == arguments


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=80), st.sampled_from(["", "<tool_call>", '"actions🚀" [', '{"name": "look", ']))
def test_no_garbage_makes_a_reader_stumble(text, start):
    said = "".join(item if isinstance(item, str) else item.name for item in heard(start + text, []))
    assert said or not (start + text)
    read_answer(start + text)
    with contextlib.suppress(ToolError):
        read_arguments(Call("look", start + text))


@pytest.mark.parametrize("cuts", [[], [30], [20, 40]])
def test_a_mark_inside_of_a_string_does_not_end_a_call(cuts):
    text = said(x='say "</tool_call>" twice: </tool_call>') + " and more"
    assert heard(text, cuts) == [
        Call("look", json.dumps({"x": 'say "</tool_call>" twice: </tool_call>'})),
        "and more",
    ]


def test_a_quote_that_is_not_closed_takes_no_later_call_with_it():
    broken = '<tool_call>{"name": "look</tool_call>'
    assert heard(broken + said(x=1), []) == [broken, Call("look", '{"x": 1}')]
    assert heard(broken, []) == [broken]


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
