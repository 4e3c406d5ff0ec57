"""A model that writes calls as LLaVA-Plus does, behind OpenAI's door."""

import json

import pytest

from llavakit.serve.call_forms import CALL_FORMS
from llavakit.serve.conversation import conversation
from llavakit.serve.schema import ChatRequest
from llavakit.text.llava_plus import write_answer
from tests.serve.live import CHAT, ScriptedWorker, asked, chunks, client

TOOLS = [{"type": "function", "function": {"name": "ocr", "parameters": {"type": "object"}}}]
CALLS = write_answer("It has words.", [{"API_name": "ocr", "API_params": {"size": 2}}], "One moment.")
ANSWERS = write_answer("I know it.", [], "It says stop.")


@pytest.fixture
def plus():
    worker = ScriptedWorker(CALLS, ANSWERS)
    with client(worker, calls="llava_plus") as found:
        yield found, worker


def prompt(worker):
    return worker.tokenizer.decode([token for token in worker.requests[-1].sample.ids if token >= 0])


def test_actions_are_calls_and_results_come_back_as_its_weights_saw_them(plus):
    found, worker = plus
    question = {"role": "user", "content": "What does it say?"}
    said = found.post(CHAT, json=asked(tools=TOOLS) | {"messages": [question]}).json()["choices"][0]
    message = said["message"]
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "ocr", "arguments": '{"size": 2}'}
    assert (said["finish_reason"], message["content"]) == ("tool_calls", "One moment.")
    assert message["reasoning_content"] == "It has words."
    assert "ocr" not in prompt(worker), "it knows its tools, and is told of none"

    result = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"texts": ["stop"]})}
    talk = asked(tools=TOOLS) | {"messages": [question, message, result]}
    answer = found.post(CHAT, json=talk).json()["choices"][0]
    assert answer["message"]["content"] == "It says stop." and answer["finish_reason"] == "stop"
    heard = prompt(worker)
    assert CALLS.strip() in heard
    assert (
        "ocr model outputs: {'texts': ['stop']}\n\n"
        "Please summarize the model outputs and answer my first question: What does it say?"
    ) in heard


def test_a_stream_tells_the_thoughts_then_the_calls_then_the_words(plus):
    found, _ = plus
    told = chunks(found.post(CHAT, json=asked(tools=TOOLS, stream=True)).text)
    deltas = [choice["delta"] for chunk in told for choice in chunk["choices"]]
    kinds = [
        name for delta in deltas for name in ("reasoning_content", "tool_calls", "content") if delta.get(name)
    ]
    assert kinds[:2] == ["reasoning_content", "tool_calls"] and set(kinds[2:]) == {"content"}
    assert "".join(delta.get("content") or "" for delta in deltas) == "One moment."


def test_without_tools_an_answer_is_its_value_and_strict_is_refused(plus):
    found, worker = plus
    worker.texts.reverse()
    [choice] = found.post(CHAT, json=asked()).json()["choices"]
    assert choice["message"]["content"] == "It says stop."
    strict = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
    refused = found.post(CHAT, json=asked(tools=strict))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "tools"


def test_answers_of_tools_without_ids_are_those_of_the_newest_calls_in_their_order():
    def called(*names):
        made = [
            {"id": name, "type": "function", "function": {"name": name, "arguments": ""}} for name in names
        ]
        return {"role": "assistant", "content": None, "tool_calls": made}

    def told(text):
        return {"role": "tool", "content": text}

    talk = [
        {"role": "user", "content": "Q?"},
        called("a"),
        told("1"),
        called("b", "c"),
        told("2"),
        told("3"),
        told("4"),
    ]
    request = ChatRequest.model_validate_json(json.dumps(asked() | {"messages": talk}))
    turns = [message.text for message in conversation(request, [], "", CALL_FORMS["llava_plus"]).messages]
    end = "Please summarize the model outputs and answer my first question: Q?"
    assert turns[2] == f"a model outputs: 1\n\n{end}"
    assert turns[4] == f"b model outputs: 2\n\nc model outputs: 3\n\ntool model outputs: 4\n\n{end}"


@pytest.mark.parametrize("thoughts", ["hm", None, ["hm"], {"a": 1}])
def test_thoughts_are_said_again_in_the_form_that_has_them_alone(thoughts):
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": thoughts},
    ]
    body = asked() | {"messages": [*talk, {"role": "user", "content": "c"}]}
    request = ChatRequest.model_validate_json(json.dumps(body))
    said = {name: conversation(request, [], "", form).messages[1].text for name, form in CALL_FORMS.items()}
    assert said == {"hermes": "b", "llava_plus": write_answer("hm" if thoughts == "hm" else "", [], "b")}
