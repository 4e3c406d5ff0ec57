"""LLaVA-Plus' text: what its weights saw, and a reader that nothing breaks."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.text.calls import Call
from llavakit.text.llava_plus import (
    ACTIONS,
    THOUGHTS,
    VALUE,
    PlusReader,
    Thought,
    action_of,
    as_python,
    read_answer,
    results_text,
    write_answer,
)

ZOOM = Call("zoom", '{"box": [0.1, 0.2, 0.3, 0.4]}')
WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="🤔🚀👉\r"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.builds(lambda name, params: Call(name, json.dumps(params)), WORDS, st.dictionaries(WORDS, JSON)),
    max_size=3,
)


def test_the_text_is_that_of_the_released_data():
    text = write_answer("I look.", [action_of(ZOOM)], "Wait, café.")
    assert text == (
        '"thoughts🤔" I look.\n'
        '"actions🚀" [{"API_name": "zoom", "API_params": {"box": [0.1, 0.2, 0.3, 0.4]}}]\n'
        '"value👉" Wait, café.\n'
    )
    assert results_text([("ocr", {"texts": ["a"]})], "What?") == (
        "ocr model outputs: {'texts': ['a']}\n\n"
        "Please summarize the model outputs and answer my first question: What?"
    )


@settings(derandomize=True, deadline=None, max_examples=150)
@given(WORDS, CALLS, WORDS)
def test_what_is_written_is_read_again(thoughts, calls, value):
    text = write_answer(thoughts, [action_of(call) for call in calls], value)
    said = read_answer(text)
    assert (said.thoughts, said.calls, said.value, said.problem) == (thoughts, tuple(calls), value, None)
    again = write_answer(said.thoughts, [action_of(call) for call in said.calls], said.value)
    assert again == text, "byte for byte"


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([THOUGHTS, ACTIONS, VALUE, "[", "]", "{", "'", '"API_name"', "\n", "x", "\\"]))
)
def test_nothing_breaks_the_reader(pieces):
    read_answer("".join(pieces))


@pytest.mark.parametrize(
    ("actions", "names"),
    [
        ("[]", []),
        ('[{"API_name": "a", "API_params": {}}] and more', ["a"]),
        ("[{'API_name': 'a', 'API_params': {'x': \"it's\"}}]", ["a"]),
        ('text before [{"API_name": "a", "API_params": {"s": "}] \\" ["}}]', ["a"]),
        ('[{"API_name": "a", "API_params": {}}, {"API_name": "b", "API_params": {}}]', ["a", "b"]),
    ],
)
def test_calls_are_found_where_the_served_reader_failed(actions, names):
    said = read_answer(f"{THOUGHTS}t\n{ACTIONS}{actions}\n{VALUE}v {VALUE}w\n")
    assert ([call.name for call in said.calls], said.problem) == (names, None)
    assert said.value == f"v {VALUE}w", "a second label is text"


@pytest.mark.parametrize(
    "actions",
    [
        "", "__import__('os').system('x')", "[__import__('os').getpid()]", "[1]", '[{"API_name": 1}]', "[" * 10_000,
        '[{"API_name": "a", "API_params": []}]', '[{"API_name": "a", "API_params": {"x": NaN}}]', "{}",
        "[1" + "0" * 30_000,
    ],
)  # fmt: skip
def test_what_is_no_list_of_calls_is_a_problem_and_is_never_run(actions):
    said = read_answer(f"{THOUGHTS}t\n{ACTIONS}{actions}\n{VALUE}v\n")
    assert said.calls == () and said.problem is not None


def test_plain_text_is_an_answer():
    said = read_answer("A red circle.")
    assert (said.thoughts, said.calls, said.value, said.problem) == ("", (), "A red circle.", None)


def read_in_pieces(text, cuts, names, **how):
    """What a reader tells: all thoughts, calls, and words as one text."""
    reader, told = PlusReader(frozenset(names), **how), []
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        told += reader.add(text[start:end])
    told += reader.finish()
    thoughts = [each.text for each in told if isinstance(each, Thought)]
    calls = [each for each in told if isinstance(each, Call)]
    return thoughts, calls, "".join(each for each in told if isinstance(each, str))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(WORDS, CALLS, WORDS, st.lists(st.integers(0, 500), max_size=8))
def test_a_streamed_answer_is_read_as_the_whole_one(thoughts, calls, value, cuts):
    text = write_answer(thoughts, [action_of(call) for call in calls], value)
    told = read_in_pieces(text, cuts, {call.name for call in calls})
    assert told == ([thoughts] if thoughts else [], calls, f"{value}\n")
    assert read_in_pieces(text, cuts, {call.name for call in calls}, only_first=True)[1] == calls[:1]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [THOUGHTS, ACTIONS, VALUE, VALUE[1:8], "[]", "[", "{", "'", '"API_name"', "\n", "x", '"']
        )
    ).map("".join),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_the_cuts_do_not_matter_and_plain_text_is_not_lost(text, cuts):
    assert read_in_pieces(text, cuts, ()) == read_in_pieces(text, [], ())
    if not any(mark in text for mark in "🤔🚀👉"):
        assert read_in_pieces(text, cuts, ()) == ([], [], text)


def test_calls_of_what_was_not_offered_stay_text_letter_for_letter():
    text = write_answer("I look.", [action_of(ZOOM)], "Wait.")
    for names in ((), ("crop",)):
        assert read_in_pieces(text, [30, 60], names) == ([], [], text)
    joined = Call("grounding_dino_sam", '{"caption": "dog"}')
    text = write_answer("", [action_of(joined)], "")
    assert '"grounding_dino+sam"' in text
    assert read_in_pieces(text, [], ["grounding_dino_sam"]) == ([], [joined], "\n")
    assert as_python('{"a": [true, null]}') == "{'a': [True, None]}" and as_python("no JSON") == "no JSON"
