"""What may be asked: every field is honoured or refused by its name."""

import json

import pytest
from openai.types.chat import completion_create_params

from llavakit.serve.errors import ApiError
from llavakit.serve.parse import parse
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig

VALUES = ServeConfig().max_json_values
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
# Fields of OpenAI's that would change the answer, and that this server does not have.
REFUSED = {
    "audio", "function_call", "functions", "moderation", "reasoning_effort", "verbosity", "web_search_options",
}  # fmt: skip


def refused(**fields) -> tuple[str, str | None]:
    """(message, field)"""
    with pytest.raises(ApiError) as error:
        parse(json.dumps(ASKED | fields).encode(), VALUES, ChatRequest)
    assert error.value.status == 400
    return str(error.value), error.value.param


def test_every_field_that_openai_has_is_known_or_refused_by_name():
    theirs = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert theirs <= set(ChatRequest.model_fields)
    for name in REFUSED:
        message, param = refused(**{name: "x"})
        assert param == name and "cannot honour" in message
    parse(
        json.dumps(dict.fromkeys(theirs) | ASKED).encode(), VALUES, ChatRequest
    )  # null is nothing, in all of them


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperatur": 1}, "temperatur"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"red": 1}}, "logit_bias.red"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"media_io_kwargs": {"video": {"fps": 0}}}, "media_io_kwargs.video.fps"),
        ({"mm_processor_kwargs": {"max_pixels": 9}}, "mm_processor_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"href": "x"}}]}]},
         "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "assistant", "content": "x", "refusal": "no"}]}, "messages[0].refusal"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema"),
    ],
)  # fmt: skip
def test_the_field_at_fault_is_named(fields, param):
    message, found = refused(**fields)
    assert found == param and message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]}, "not among the tools"),
        ({"tools": [TOOL, TOOL]}, "two tools have one name"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "differ"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_said(fields, said):
    assert said in refused(**fields)[0]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000,
     b'{"model": "\\ud800", "messages": []}',
     b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": ""}]}'],
)  # fmt: skip
def test_bodies_that_are_no_requests(body):
    with pytest.raises(ApiError) as error:
        parse(body, VALUES, ChatRequest)
    assert error.value.status == 400 and len(str(error.value)) < 200


def test_neutral_values_are_taken():
    neutral = {
        "logit_bias": {}, "modalities": ["text"], "store": True, "service_tier": "flex", "user": "ann",
        "metadata": {"a": "b"}, "prediction": {"type": "content", "content": "x"}, "verbosity": "medium",
        "reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}, "top_logprobs": 0,
        "stream_options": {"include_usage": True}, "add_generation_prompt": True, "mm_processor_kwargs": {},
        "skip_special_tokens": True, "function_call": "auto", "response_format": {"type": "text"},
    }  # fmt: skip
    parse(json.dumps(ASKED | neutral).encode(), VALUES, ChatRequest)


EXTRAS = {
    "name": "ann", "id": "msg_1", "type": "message", "cache_control": {"type": "ephemeral"}, "refusal": None,
    "annotations": [{"type": "url_citation"}], "anything": [1],
}  # fmt: skip


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_what_clients_add_to_messages_is_not_read(role):
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "annotations": []}
    for content in ("a", [part], None, []):
        bare, more = {"role": role, "content": content}, {"role": role, "content": content} | EXTRAS
        asked = [
            parse(json.dumps(ASKED | {"messages": [message]}).encode(), VALUES, ChatRequest)
            for message in (bare, more)
        ]
        assert asked[0] == asked[1]


@pytest.mark.parametrize("kind", ["image_url", "video_url"])
def test_a_link_is_a_text_or_an_object_with_whatever_else(kind):
    for link in ("https://x/", {"url": "https://x/"}, {"url": "https://x/", "detail": "low", "uuid": None}):
        message = {"role": "user", "content": [{"type": kind, kind: link, "cache_control": None}]}
        parse(json.dumps(ASKED | {"messages": [message]}).encode(), VALUES, ChatRequest)


def test_an_answer_can_be_sent_back_as_it_came():
    answered = {
        "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None,
        "function_call": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}],
    }  # fmt: skip
    messages = [*ASKED["messages"], answered, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
    assert len(parse(json.dumps(ASKED | {"messages": messages}).encode(), VALUES, ChatRequest).messages) == 3
