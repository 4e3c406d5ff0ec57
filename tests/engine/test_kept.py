"""What is kept stays within its bytes: rows of pictures and compiled schemas."""

import json

import pytest

from llavakit.engine import grammar
from llavakit.engine.engine import Engine
from llavakit.engine.grammar import Grammars
from llavakit.engine.kept import Kept
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, user
from tests import tiny


def test_the_least_recently_used_goes_first_and_what_is_too_large_is_not_kept():
    kept = Kept(10, lambda key, value: len(value))
    for key in "abc":
        kept.keep(key, key * 3)
    assert kept.find("a") == "aaa"
    kept.keep("d", "dddd")
    assert [key in kept for key in "abcd"] == [True, False, True, True] and kept.bytes == 10
    kept.keep("a", "a")
    assert kept.bytes == 8
    kept.keep("e", "e" * 11)
    assert kept.bytes == 0 and "e" not in kept


@pytest.fixture
def compiled(monkeypatch):
    """The schemas that were compiled, in order."""
    done, compile_schema = [], Grammars._compile
    monkeypatch.setattr(
        Grammars,
        "_compile",
        lambda self, schema, *how: done.append(schema) or compile_schema(self, schema, *how),
    )
    return done


def test_schemas_are_bounded_by_bytes_and_compiled_where_they_are_prepared(monkeypatch, compiled):
    monkeypatch.setattr(grammar, "GRAMMAR_BYTES", 2 * 2**20)
    model, encoder = tiny.checkpoint().model, tiny.encoder()
    engine = Engine(model, frozenset({2}), tokenizer=encoder.tokenizer)
    sample = encoder.encode(Conversation((user("Say a word."),)), open_turn=True)

    def schema(number, size):
        return json.dumps({"enum": [f"{number} {each}" for each in range(size)]})

    small, large = [schema(number, 1) for number in range(4)], schema(9, 2000)
    for each in [*small, *small]:
        engine.prepare(sample, Sampling(json_schema=each))
    assert compiled == small
    request = engine.prepare(sample, Sampling(json_schema=large, n=2, max_tokens=2))
    engine.submit(request, lambda event: None)
    while engine.busy:
        engine.step()
    assert compiled == [*small, large], "not again in the engine's thread, though it is too large to be kept"
    assert engine._grammars._kept.bytes <= 2 * 2**20
