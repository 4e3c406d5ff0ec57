"""OpenAI's Responses: the answers of chat completions in other words, whole and as events."""

import json

import pytest

from tests import tiny
from tests.serve.live import CONTEXT, ScriptedWorker, client, image_part, post, text_of

URL = "/v1/responses"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def real():
    with client() as found:
        yield found


def respond(found, input="hi", **fields):
    answer = found.post(URL, json={"model": "tiny", "input": input, "temperature": 0} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(found, input="hi", **fields) -> list[dict]:
    body = {"model": "tiny", "input": input, "temperature": 0, "stream": True} | fields
    out = []
    for block in found.post(URL, json=body).text.strip().split("\n\n"):
        kind, data = block.split("\n")
        out.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {out[-1]['type']}"
    assert [event["sequence_number"] for event in out] == list(range(len(out)))
    return out


def refused(found, **fields) -> dict:
    answer = found.post(URL, json={"model": "tiny", "input": "hi"} | fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def said(response: dict) -> str:
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )


def test_the_answer_is_that_of_chat_completions(real, tmp_path):
    picture = image_part(tiny.picture(tmp_path / "a.png"))
    words = {"type": "text", "text": "What color?"}
    messages = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": [picture, words]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "Sure?"},
    ]
    chat = post(real, messages=messages, max_tokens=9)
    items = [
        {"role": "user", "content": [
            {"type": "input_image", "image_url": picture["image_url"]["url"], "detail": "auto"},
            {"type": "input_text", "text": "What color?"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "red", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    answer = respond(real, items, instructions="Short.", max_output_tokens=9)
    assert said(answer) == text_of(chat)
    assert (answer["object"], answer["status"]) == ("response", "incomplete")
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    usage = answer["usage"]
    assert usage["input_tokens"] == chat["usage"]["prompt_tokens"] and usage["output_tokens"] == 9


def test_streamed_and_whole_are_one_answer(real):
    whole = respond(real, max_output_tokens=20)
    told = events(real, max_output_tokens=20)
    kinds = [event["type"] for event in told]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event["delta"] for event in told if "delta" in event) == said(whole)
    last = told[-1]["response"]
    assert said(last) == said(whole) and last["usage"] == whole["usage"]


def test_calls_are_items():
    with client(ScriptedWorker(f"Let me see.\n{CALL}\n{CALL}\n")) as found:
        answer = respond(found, tools=[TOOL])
        assert [item["type"] for item in answer["output"]] == ["message", "function_call", "function_call"]
        assert said(answer) == "Let me see." and answer["status"] == "completed"
        first, second = answer["output"][1:]
        assert (first["name"], first["arguments"]) == ("look", '{"x": 1}')
        assert first["call_id"] != second["call_id"]
        told = events(found, tools=[TOOL])
        done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["message", "function_call", "function_call"]
        assert told[-1]["response"]["output"] == done
        arguments = [event for event in told if event["type"] == "response.function_call_arguments.done"]
        assert [event["output_index"] for event in arguments] == [1, 2]


def test_what_came_is_sent_back_and_the_tool_answers():
    worker = ScriptedWorker(CALL, "blue")
    with client(worker) as found:
        question = {"role": "user", "content": "What is there?"}
        first = respond(found, [question], tools=[TOOL])["output"]
        result = {"type": "function_call_output", "call_id": first[0]["call_id"], "output": "a sea"}
        assert said(respond(found, [question, *first, result], tools=[TOOL])) == "blue"
        messages = [
            question,
            {"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "a sea"},
        ]  # fmt: skip
        function = {"name": "look", "parameters": {"type": "object"}}
        post(found, messages=messages, tools=[{"type": "function", "function": function}])
    assert worker.requests[1].sample == worker.requests[2].sample


def test_a_format_and_forced_calls_are_kept(real):
    schema = {
        "type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"],
        "additionalProperties": False,
    }  # fmt: skip
    shape = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}}
    assert json.loads(said(respond(real, text=shape)))["color"] in ("red", "blue")
    tool = TOOL | {"parameters": schema}
    for choice in ("required", {"type": "function", "name": "look"}):
        (call,) = respond(real, tools=[tool], tool_choice=choice)["output"]
        assert json.loads(call["arguments"])["color"] in ("red", "blue")


def test_logprobs_come_with_the_text(real):
    include = ["message.output_text.logprobs"]
    (item,) = respond(real, max_output_tokens=5, include=include, top_logprobs=2)["output"]
    told = item["content"][0]["logprobs"]
    assert len(told) == 5 and all(len(token["top_logprobs"]) == 2 for token in told)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": [
            {"type": "input_text", "text": "b"}, {"type": "input_image", "image_url": "data:,A"}]}],
          "instructions": "Short."}, "input[1].content[1].image_url"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "[]"}]},
         "input[0].arguments"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0]"),
        ({"max_output_tokens": 4097}, "max_output_tokens"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "nonsense"}}}}, "text.format"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"temperatur": 1}, "temperatur"),
    ],
)  # fmt: skip
def test_the_field_at_fault_is_named_in_the_requests_own_words(real, fields, param):
    assert refused(real, **fields)["param"] == param


def test_a_prompt_beyond_the_context_and_a_broken_engine():
    with client(worker := ScriptedWorker("ab", finish="failed")) as found:
        error = refused(found, input="long " * 2000)
        assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
        assert str(CONTEXT) in error["message"]
        last = events(found)[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == "engine_failed"
        worker.finish = "stop"
        assert said(respond(found)) == "ab"
