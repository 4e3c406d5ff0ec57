"""One choice: tokens to deltas, whatever the tokenizer."""

import json

import pytest

from llavakit.engine.request import Event
from llavakit.serve.choice import Choice, Delta, Spelling
from llavakit.serve.conversation import Calling
from llavakit.text.calls import Call
from tests import tiny

KINDS = sorted(tiny.TOKENIZERS)
NOBODY = Calling()
TEXT = "  It is a red circle, naïve café 東京 🙂.\n\nTwo lines. "


def deltas(kind: str, text: str, *, stops=(), calling=NOBODY, finish="stop") -> list[Delta]:
    """What a choice makes of a text that the model says."""
    tokenizer = tiny.TOKENIZERS[kind]()
    choice, out = Choice(0, Spelling(tokenizer), stops, calling), []
    for token in tokenizer.hf(text, add_special_tokens=False)["input_ids"]:
        ended = choice.ends(token)
        out += choice.take(Event(0, 0, token, finish="stop" if ended else None))
        if ended:
            return out
    return out + choice.take(Event(0, 0, None, finish=finish))


def joined(found: list[Delta]) -> str:
    return "".join(delta.text for delta in found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_what_was_said_without_blanks_around(kind):
    found = deltas(kind, TEXT)
    assert joined(found) == TEXT.strip() and len(found) > 10
    assert [delta.finish for delta in found if delta.finish] == ["stop"] and found[-1].finish == "stop"
    assert deltas(kind, TEXT, finish="length")[-1].finish == "length"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_ends_it(kind):
    found = deltas(kind, TEXT, stops=("red circle", "never"))
    assert joined(found) == "It is a" and found[-1].finish == "stop"


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_read_and_forced_ones_come_whole(kind):
    call = {"name": "look", "arguments": {"a": "é"}}
    names = frozenset({"look"})
    free = deltas(kind, f"See: <tool_call>{json.dumps(call)}</tool_call>", calling=Calling(free=names))
    assert joined(free) == "See:" and free[-1].finish == "tool_calls"
    forced = deltas(kind, json.dumps(call), calling=Calling(forced=names))
    expected = Call("look", json.dumps(call["arguments"], ensure_ascii=False))
    assert [d.call for d in free if d.call] == [d.call for d in forced if d.call] == [expected]
    assert joined(forced) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_spelled_as_the_text_they_add(kind):
    tokenizer = tiny.TOKENIZERS[kind]()
    ids = tokenizer.hf("a red circle", add_special_tokens=False)["input_ids"]
    spelled = [Spelling(tokenizer).likely(token, -1.0) for token in ids]
    assert "".join(token.token for token in spelled).strip() == "a red circle"
    assert all(bytes(token.bytes).decode() == token.token for token in spelled)
    odd = [Spelling(tokenizer).likely(token, -1.0) for token in tokenizer.hf("☃")["input_ids"]]
    assert None in [token.bytes for token in odd], "a part of a letter"
    special = Spelling(tokenizer).likely(tokenizer.hf.eos_token_id, float("-inf"))
    assert (special.token, special.logprob) == (tokenizer.hf.eos_token, -9999.0)
