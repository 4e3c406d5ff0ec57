"""Calls in free text that are held to their schemas: whatever is drawn, a call that was opened is one that fits."""

import json
import os

import pytest
import torch

from llavakit.core.errors import ConfigError, DataError
from llavakit.engine.engine import Engine
from llavakit.engine.grammar import Grammars
from llavakit.engine.sampler import Sampling
from llavakit.text.calls import Call
from llavakit.text.conversation import Conversation, user
from llavakit.text.hermes import OPEN, CallReader, forced_schema
from llavakit.tools.arguments import arguments_model
from llavakit.tools.skills import SKILLS, open_tools
from tests import tiny

DRAWN = int(os.environ.get("LLAVAKIT_DRAWN_CALLS", "60"))
TOOLS = ("crop", "zoom", "measure", "count_shapes", "rotate", "faces", "blur", "detect")


@pytest.fixture(scope="module")
def encoder():
    return tiny.encoder()


@pytest.fixture(scope="module")
def grammar(encoder):
    cards = {card.name: card.parameters for card in open_tools(TOOLS).cards}
    return Grammars(encoder.tokenizer, frozenset({2})).of(json.dumps(forced_schema(cards)), in_text=True)


def walk(grammar, tokens, size):
    """The grammar behind these tokens; None where it does not go along."""
    state = grammar.begin()
    for token in tokens:
        if state.mask(torch.zeros(size))[token] == -torch.inf:
            return None
        state.accept(token)
    return state


def ids(encoder, text):
    return encoder.tokenizer.hf(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("text", "goes"),
    [
        ("Just text, with <tools> and {braces} and <tool_ca", True),
        ('Well:\n<tool_call>\n{"name": "rotate", "arguments": {"degrees": 90}}\n</tool_call> and more', True),
        (
            '<tool_call>\n{"name": "rotate", "arguments": {"degrees": 90}}\n</tool_call>\n<tool_call>\n{"name"',
            True,
        ),
        ('<tool_call>\n{"name": "dance"', False),
        ("<tool_call> is a mark", False),
        ('<tool_call>\n{"name": "rotate", "arguments": {"degrees": 1000', False),
        ('<tool_call>\n{"name": "rotate", "arguments": {}', False),
    ],
)
def test_text_is_free_and_a_call_is_not(encoder, grammar, text, goes):
    size = len(encoder.tokenizer.hf)
    assert (walk(grammar, ids(encoder, text), size) is not None) == goes


def test_of_many_calls_drawn_at_random_none_is_malformed(encoder, grammar):
    """As a model of uniform scores would draw them, which is as hot as it gets."""
    size, generator = len(encoder.tokenizer.hf), torch.Generator().manual_seed(0)
    opened = walk(grammar, ids(encoder, OPEN), size)
    names = set()
    for _ in range(DRAWN):
        state, tokens, text = opened, ids(encoder, OPEN), ""
        state = walk(grammar, tokens, size)
        while not text.endswith("</tool_call>"):
            scores = state.mask(torch.zeros(size))
            scores[ids(encoder, "}")[0]] += 3  # or objects and numbers take very long to end
            scores[ids(encoder, '"')[0]] += 3
            token = int(torch.multinomial(scores.softmax(0), 1, generator=generator))
            assert token != 2, "it ended inside of a call"
            state.accept(token)
            tokens.append(token)
            text = encoder.tokenizer.decode(tokens)
        (call,) = CallReader(frozenset(TOOLS)).add(text)
        assert isinstance(call, Call), text
        arguments_model(SKILLS[call.name].function).model_validate(json.loads(call.arguments))
        names.add(call.name)
    assert len(names) > len(TOOLS) // 2


def test_the_engine_takes_one_schema_and_refuses_what_cannot_be_followed(encoder):
    checkpoint = tiny.checkpoint()
    engine = Engine(checkpoint.model, frozenset({2}), tokenizer=encoder.tokenizer)
    sample = encoder.encode(Conversation((user("hi"),)), open_turn=True)
    schema = json.dumps(forced_schema({"look": {"type": "object"}}))
    with pytest.raises(ConfigError, match="exclude each other"):
        engine.prepare(sample, Sampling(json_schema="{}", call_schema=schema))
    with pytest.raises(DataError, match="colour"):
        engine.prepare(sample, Sampling(call_schema='{"type": "colour"}'))
    (said,) = engine.generate([sample], Sampling(max_tokens=8, call_schema=schema))
    assert len(said) == 8 and "\ufffd" not in encoder.tokenizer.decode(said)  # text, not bytes of none
