"""Answers in one piece: the promised shape, made while it is said."""

import time

from llavakit.serve.answers import ChatCompletion, ChatWriter
from llavakit.serve.choice import Chosen, Delta, Likely, Spelling
from llavakit.serve.usage import PromptDetails, Usage
from llavakit.text.calls import Call
from tests import tiny
from tests.serve.test_conversation import request, say

USAGE = Usage(
    prompt_tokens=1, completion_tokens=2, total_tokens=3, prompt_tokens_details=PromptDetails(image_tokens=0)
)


def likely(text: str, logprob: float = -0.5) -> Likely:
    return Likely(text, list(text.encode()), logprob)


def test_an_answer_is_of_the_model_that_the_document_describes():
    writer = ChatWriter("7", "tiny", request(say("user", "a")))
    token = Chosen(likely('é\u2028"'), (likely("é"), Likely("\ufffd", None, -9999.0)))
    for delta in (
        Delta(1, "b"),
        Delta(0, "say "),
        Delta(0, call=Call("look", '{"x": "ü"}')),
        Delta(0, logprobs=(token, token), finish="tool_calls"),
        Delta(1, finish="stop"),
    ):
        writer.gather(delta)
    answer = ChatCompletion.model_validate_json(writer.whole(2, USAGE), strict=True, extra="forbid")
    first, second = answer.choices
    assert (first.message.content, first.finish_reason) == ("say ", "tool_calls")
    assert first.message.tool_calls[0].function.arguments == '{"x": "ü"}'
    assert [each.token for each in first.logprobs.content] == [token.said.token] * 2
    assert first.logprobs.content[0].top_logprobs[1].bytes is None
    assert (second.message.content, second.message.tool_calls, second.logprobs) == ("b", None, None)


def test_a_token_is_spelled_once(monkeypatch):
    tokenizer, asked = tiny.byte_level_tokenizer(), []
    spelling, decode = Spelling(tokenizer), type(tokenizer).decode
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: asked.append(ids) or decode(self, ids))
    assert [spelling.likely(5, -1.0) for _ in range(20)] == [spelling.likely(5, -1.0)] * 20
    assert len(asked) == 1


def test_each_token_costs_the_loop_little_however_many_there_are():
    """The most that may be asked for was seconds in one piece: 16 choices, each token with 20 others."""
    writer = ChatWriter("7", "tiny", request(say("user", "a")))
    token = Chosen(likely("word"), tuple(likely(f"word{number}") for number in range(20)))
    longest = 0.0
    for number in range(4000):
        began = time.thread_time()
        writer.gather(Delta(number % 16, "word", logprobs=(token,), finish="stop"))
        longest = max(longest, time.thread_time() - began)
    began = time.thread_time()
    assert len(writer.whole(16, USAGE)) > 4000 * 21 * 40
    assert longest < 0.1 and time.thread_time() - began < 0.5
