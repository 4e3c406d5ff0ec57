"""Whatever a client of OpenAI's API sends: refused is only what would change the answer."""

import json

import pytest

from tests import tiny
from tests.serve.live import CHAT, CONTEXT, ScriptedWorker, asked, client, image_part, post, text_of
from tests.serve.test_media import data_url
from tests.vision.clips import write_clip

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def real():
    with client() as found:
        yield found


COLORS = {
    "type": "object", "properties": {"color": {"$ref": "#/$defs/Color"}, "inside": {"$ref": "#"}},
    "required": ["color"], "additionalProperties": False, "$defs": {"Color": {"enum": ["red", "blue"]}},
}  # fmt: skip
SIDES = COLORS | {"$defs": {"Color": {"enum": ["left", "right"]}}}  # of another tool, under the same name


def test_forced_calls_follow_the_references_of_their_own_schema(real):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name, parameters in (("paint", COLORS), ("turn", SIDES))
    ]
    said = set()
    for seed in range(6):
        answer = post(
            real, tools=tools, tool_choice="required", max_tokens=200, temperature=1, seed=seed, top_k=20
        )
        for call in answer["choices"][0]["message"].get("tool_calls") or ():
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            said.add(name)
            while arguments:
                assert arguments["color"] in (("red", "blue") if name == "paint" else ("left", "right"))
                assert set(arguments) <= {"color", "inside"}
                arguments = arguments.get("inside")
    assert said == {"paint", "turn"}


def test_tools_and_a_format_are_a_call_or_the_format():
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    fields = {"tools": [TOOL], "response_format": shape}
    worker = ScriptedWorker('{"name": "look", "arguments": {"x": 1}}', '{"color": "red"}')
    with client(worker) as found:
        called, said = post(found, **fields)["choices"][0], post(found, **fields)["choices"][0]
        assert called["finish_reason"] == "tool_calls" and called["message"]["content"] is None
        assert called["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"x": 1}'}
        assert said["finish_reason"] == "stop" and said["message"]["content"] == '{"color": "red"}'
    assert len(json.loads(worker.requests[0].sampling.json_schema)["anyOf"]) == 2


def test_bias_and_penalties_change_the_answer(real):
    (letter,) = tiny.encoder().tokenizer.hf("a", add_special_tokens=False)["input_ids"]
    assert text_of(post(real, max_tokens=4, logit_bias={str(letter): 100})) == "aaaa"
    fields = {"max_tokens": 60, "temperature": 2, "top_k": 8, "seed": 1, "logprobs": True}

    def count(**more) -> int:
        told = post(real, **fields, **more)["choices"][0]["logprobs"]["content"]
        return [token["token"] for token in told].count("a")

    free = count(logit_bias={str(letter): 2})
    assert free > 2 and count(logit_bias={str(letter): -100}) == 0
    for penalty in ("presence_penalty", "frequency_penalty"):
        assert count(logit_bias={str(letter): 2}, **{penalty: 2}) < free


def test_messages_in_any_order_and_empty_answers_are_answered(real):
    a, b = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    empty, late = {"role": "assistant", "content": ""}, {"role": "system", "content": "Short."}
    for messages in (
        [b, a],
        [a, b],
        [a, empty, a],
        [a, late],
        [a, b, late, a],
        [late],
        [{"role": "user", "content": None}],
    ):
        assert post(real, messages=messages, max_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_prompt_beyond_the_context_is_told_in_openais_words(real):
    for content in ("long " * 2000, "long " * 100_000):
        error = real.post(CHAT, json=asked(content)).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert f"maximum context length is {CONTEXT} tokens" in error["message"]


def test_the_picture_at_fault_is_named(real, tmp_path):
    good, broken = (tiny.picture(tmp_path / name, size=(200, 200)) for name in ("a.png", "b.png"))
    broken.write_bytes(broken.read_bytes()[:5000])
    error = real.post(CHAT, json=asked([image_part(good), image_part(broken)])).json()["error"]
    assert error["param"] == "messages[0].content[1].image_url.url" and error["code"] == "invalid_media"
    odd = image_part(good)
    odd["image_url"]["url"] = odd["image_url"]["url"].replace("image/png", "image/jpeg")
    plain = {"type": "image_url", "image_url": odd["image_url"]["url"]}
    answers = {text_of(post(real, content=[part], max_tokens=4)) for part in (image_part(good), odd, plain)}
    assert len(answers) == 1, "the bytes say what a picture is"


def test_what_evaluations_send_is_answered(real, tmp_path):
    picture = image_part(tiny.picture(tmp_path / "a.png"))
    picture["image_url"]["detail"] = "low"  # VLMEvalKit
    words = {"type": "text", "text": "What color?"}
    assert post(real, content=[picture, words], n=1, max_tokens=4)
    fields = {"response_format": {"type": "text"}, "max_completion_tokens": 4}  # lmms-eval, of newer models
    assert post(real, content=[picture, words], **fields)
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 4}
    clip = data_url(write_clip(tmp_path / "clip.mp4").read_bytes(), "video/mp4")
    film = [{"type": "video_url", "video_url": {"url": clip}}, words]
    counts = [
        post(real, content=film, **extra, media_io_kwargs={"video": {"num_frames": number, "fps": 4}})[
            "usage"
        ]
        for number in (1, 2)
    ]
    one, two = (usage["prompt_tokens_details"]["image_tokens"] for usage in counts)
    assert two == 2 * one
    # lmms-eval with tools: the calls apart from the text, answers without the call's id, pictures among them.
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [words]},
        {"role": "assistant", "content": "Let me see."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "look", "content": [words, picture]},
    ]
    assert post(real, messages=messages, tools=[TOOL], tool_choice="auto", max_tokens=4)
