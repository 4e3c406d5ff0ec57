"""Replies end before a stop string, whatever tokens spell it, and never take back what they showed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.text.reply import Reply
from tests import tiny

TOKENIZERS = {name: make() for name, make in tiny.TOKENIZERS.items()}
STOPS = ("###", "\nHuman:")


def said(name: str, text: str, stops: tuple[str, ...]) -> tuple[Reply, list[str], int]:
    """The reply to a model that says `text`, its pieces, and how many tokens were taken."""
    ids = TOKENIZERS[name].hf(text, add_special_tokens=False)["input_ids"]
    reply, pieces = Reply(TOKENIZERS[name], stops), []
    for taken, token in enumerate(ids, 1):
        pieces.append(reply.add(token))
        if reply.ended:
            return reply, pieces, taken
    pieces.append(reply.finish())
    return reply, pieces, len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["red", " ", "#", "##", "###", "\n", "Human:", "Hum", "é🙂", "a"]), max_size=9
    )
)
def test_the_text_ends_before_the_first_stop(name, words):
    tokenizer, text = TOKENIZERS[name], "".join(words)
    whole = tokenizer.decode(tokenizer.hf(text, add_special_tokens=False)["input_ids"])
    first = min((whole.find(stop) for stop in STOPS if stop in whole), default=len(whole))
    reply, pieces, _ = said(name, text, STOPS)
    assert reply.text == "".join(pieces) == whole[:first]
    assert reply.ended == (first < len(whole))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_nothing_is_said_after_the_stop(name):
    reply, _, taken = said(name, "It is red.###Human: and you? What color is the shape?", ("###",))
    ids = TOKENIZERS[name].hf("It is red.###Human: and you? What color is the shape?")["input_ids"]
    assert reply.ended and reply.text == "It is red."
    assert taken < len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 300), max_size=120), window=st.sampled_from([1, 3, 32]))
def test_decoding_only_the_last_tokens_gives_the_whole_text(name, ids, window):
    reply = Reply(TOKENIZERS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llavakit.text.reply.WINDOW", window)
        shown = "".join(reply.add(token) for token in ids) + reply.finish()
    assert shown == TOKENIZERS[name].decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 300), max_size=60), max_size=4),
    window=st.sampled_from([1, 3, 32]),
    stops=st.sampled_from([(), ("a", "is")]),
)
def test_tokens_at_once_are_those_tokens_one_by_one(name, parts, window, stops):
    one, many, said = Reply(TOKENIZERS[name], stops), Reply(TOKENIZERS[name], stops), ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llavakit.text.reply.WINDOW", window)
        for part in parts:
            said += many.extend(part)
            for token in part:
                if not one.ended:
                    one.add(token)
            assert many.ended == one.ended and one.text.startswith(said)
    one.finish()
    assert said + many.finish() == many.text == one.text
