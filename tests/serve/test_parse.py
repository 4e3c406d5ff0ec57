"""Bodies that are large only to be expensive: refused at the cost of a good one, and not said again."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.serve.errors import LONGEST, ApiError
from llavakit.serve.parse import parse
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig

VALUES = ServeConfig().max_json_values
MESSAGES = '"messages":[{"role":"user","content":"x"}]'
MIB = 2**20


def body(inside: str) -> bytes:
    return b'{"model":"m",' + inside.encode() + b"}"


COSTLY = {
    "empty messages": body('"messages":[' + "{}," * MIB + "{}]"),
    "numbers for messages": body('"messages":[' + "0," * (2 * MIB) + "0]"),
    "empty parts": body('"messages":[{"role":"user","content":[' + "{}," * MIB + "{}]}]"),
    "unknown names": body(MESSAGES + "," + ",".join(f'"{number:x}":0' for number in range(MIB // 2))),
    "names of metadata": body(
        MESSAGES + ',"metadata":{' + ",".join(f'"{number:x}":0' for number in range(MIB // 2)) + "}"
    ),
    "stops": body(MESSAGES + ',"stop":[' + "0," * (2 * MIB) + "0]"),
    "lists of a schema": body(
        MESSAGES
        + ',"tools":[{"type":"function","function":{"name":"f","parameters":{"x":['
        + "[]," * MIB
        + "[]]}}}]"
    ),
}
LONG = {
    "an unknown name": body(MESSAGES + ',"' + "a" * MIB + '":0'),
    "a role": body('"messages":[{"role":"' + "a" * MIB + '","content":"x"}]'),
    "a model": b'{"model":"' + b"m" * MIB + b'",' + MESSAGES.encode() + b"}",
    "a tool that is called": body(
        MESSAGES + ',"tool_choice":{"type":"function","function":{"name":"' + "a" * MIB + '"}}'
    ),
    "an inner name": body(MESSAGES + ',"stream_options":{"' + "a" * MIB + '":0}'),
}


@pytest.mark.parametrize("name", COSTLY)
def test_very_many_values_are_refused_unread(name):
    with pytest.raises(ApiError, match="JSON values") as error:
        parse(COSTLY[name], VALUES, ChatRequest)
    assert (error.value.status, error.value.code) == (400, "too_large")


@pytest.mark.parametrize("name", LONG)
def test_a_long_name_is_not_said_again(name):
    with pytest.raises(ApiError) as error:
        parse(LONG[name], VALUES, ChatRequest)
    assert error.value.status == 400
    assert len(str(error.value)) <= LONGEST + 3 and len(error.value.param or "") < 200


def test_what_is_wrong_many_times_costs_little_more_than_what_is_right():
    code = f"""
import resource, sys
from llavakit.serve.errors import ApiError
from llavakit.serve.parse import parse
from llavakit.serve.schema import ChatRequest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

few = {VALUES} // 4
bodies = [
    b'{{"model":"m","messages":[' + b"{{}}," * few + b'{{}}]}}',
    b'{{"model":"m","messages":[{{"role":"user","content":[' + b"0," * few + b'0]}}]}}',
    b'{{"model":"m",' + b",".join(b'"%x":0' % number for number in range(few)) + b"}}",
    b'{{"model":"m","messages":[' + b"{{}}," * {MIB} + b'{{}}]}}',
]
before = peak()
for body in bodies:
    try:
        parse(body, {VALUES}, ChatRequest)
    except ApiError:
        continue
    sys.exit("it was taken")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, "MiB"


def count(value: object) -> int:
    """Lists, objects and what stands in them; the outermost does not stand in anything."""
    if isinstance(value, dict):
        return sum(1 + (count(each) if isinstance(each, dict | list) else 0) for each in value.values())
    if isinstance(value, list):
        return sum(1 + (count(each) if isinstance(each, dict | list) else 0) for each in value)
    return 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.text('ab,[{"\\', max_size=6) | st.integers(0, 9) | st.none(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text('a,[{"\\', max_size=3), inner, max_size=4)
        ),
        max_leaves=30,
    )
)
def test_as_many_values_as_there_are_may_be_there(value):
    """What stands in strings is not counted: a body of so many values is read, one of half as many marks is not."""
    text = json.dumps(value).encode()
    try:
        parse(text, 2 * count(value) + 2, ChatRequest)
    except ApiError as error:
        assert error.code != "too_large"


@pytest.mark.parametrize(
    "text", ["a, b, [c], {d}; " * 50_000, '"' * 100_000, "\\" * 100_000, '\\",' * 100_000]
)
def test_texts_may_hold_what_they_like(text):
    message = {"role": "user", "content": text}
    assert (
        parse(json.dumps({"model": "m", "messages": [message]}).encode(), VALUES, ChatRequest)
        .messages[0]
        .content
        == text
    )


@pytest.mark.parametrize("tail", [b'\\"' * MIB, b'""' * MIB, b'"",' * MIB])
def test_strings_that_never_end_are_looked_at_once(tail):
    with pytest.raises(ApiError):
        parse(b"," * (VALUES + 1 - VALUES // 2) + b'"' + tail + b"," * (VALUES // 2), VALUES, ChatRequest)
