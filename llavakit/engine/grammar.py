"""Answers that must be JSON of a schema: which tokens may come next, by the library llguidance."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.engine.kept import Kept
from llavakit.text.hermes import CLOSE, OPEN
from llavakit.text.tokenizer import Tokenizer

# Blanks between the parts of an answer: one space, or a new line with its indentation. Without a bound, a model
# that is not sure goes on with blanks for ever.
LAYOUT: Any = {"whitespace_pattern": r"( |\n[ \t]{0,40})?"}
GRAMMAR_BYTES = 64 * 2**20  # of compiled schemas that are kept
FIXED_BYTES, BYTES_PER_LETTER = 256 * 2**10, 200


class SchemaError(DataError):
    """A schema that no answer can be held to."""


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def begin(self) -> "Grammar":
        """The same grammar at its beginning, for one answer; this one stays there."""
        return Grammar(self._matcher.deep_copy())

    def mask(self, scores_V: Tensor) -> Tensor:
        """The scores, with minus infinity wherever the grammar does not go.

        Raises SchemaError where the schema is too large to be followed: that is found while it is.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = torch.zeros(len(scores_V), dtype=torch.bool)
        flags = torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))[: len(allowed)]
        allowed[: len(flags)] = flags
        return scores_V.masked_fill(~allowed.to(scores_V.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Go on with this token, which the mask allowed."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """Nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        """Raise if the grammar cannot be followed further: a matcher with an error says that it is complete."""
        if self._matcher.is_error():
            raise SchemaError(f"json_schema: {self._matcher.get_error().splitlines()[0]}")


class Grammars:
    """Makes grammars for a tokenizer. The first one takes a second, for the vocabulary is read."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._kept: Kept[tuple[str, bool], Grammar] = Kept(GRAMMAR_BYTES, _size)
        self._vocabulary: Any = None

    def of(self, schema: str, *, in_text: bool = False) -> Grammar:
        """The grammar of a JSON schema (as JSON text). Raises SchemaError for one that cannot be followed.

        With `in_text`, of any text in which whatever a <tool_call> opens is such JSON, and is closed.
        """
        grammar = self._kept.find((schema, in_text))
        if grammar is None:
            grammar = Grammar(self._compile(schema, in_text))
            self._kept.keep((schema, in_text), grammar)
        return grammar

    def _compile(self, schema: str, in_text: bool) -> Any:
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise ConfigError("json_schema needs llguidance: pip install 'llavakit[serve]'") from None
        try:
            said = json.loads(schema)
        except ValueError as error:
            raise SchemaError(f"json_schema: not JSON: {error}") from None
        if self._vocabulary is None:
            hf: Any = self._tokenizer.hf
            self._vocabulary = from_tokenizer(hf, eos_token=sorted(self._stop_ids))
        try:
            if in_text:
                grammar = llguidance.LLMatcher.grammar_from_lark(_calls_in_text(said))
            else:
                grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=LAYOUT)
        except ValueError as error:
            raise SchemaError(f"json_schema: {error}") from None
        matcher = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise SchemaError(f"json_schema: {matcher.get_error().splitlines()[0]}")
        return matcher


def _calls_in_text(schema: Any) -> str:
    """Any text, and calls of the schema in it, in the language of llguidance. `lazy`: up to the first mark."""
    call = json.dumps({"x-guidance": LAYOUT} | schema) if isinstance(schema, dict) else json.dumps(schema)
    return f"""%llguidance {{}}
start: call* REST
call: mark "\\n" %json {call} "\\n{CLOSE}"
mark[lazy]: REST "{OPEN}"
REST: /(.|\\n)*/
"""


def _size(key: tuple[str, bool], grammar: Grammar) -> int:
    """What a compiled schema takes, and more: 0.2 MiB and 150 times its text are the most that was measured."""
    return FIXED_BYTES + BYTES_PER_LETTER * len(key[0])
