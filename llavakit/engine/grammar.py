"""Answers that must be JSON of a schema: which tokens may come next, by the library llguidance."""

import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.text.tokenizer import Tokenizer

# Blanks between the parts of an answer: one space, or a new line with its indentation. Without a bound, a model
# that is not sure goes on with blanks for ever.
LAYOUT: Any = {"whitespace_pattern": r"( |\n[ \t]{0,40})?"}


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, scores_V: Tensor) -> Tensor:
        """The scores, with minus infinity wherever the grammar does not go.

        Raises DataError where the schema is too large to be followed: that is found while it is.
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
            raise DataError(f"json_schema: {self._matcher.get_error().splitlines()[0]}")


class Grammars:
    """Makes grammars for a tokenizer. The first one takes a second, for the vocabulary is read."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._start = lru_cache(maxsize=64)(self._compile)
        self._vocabulary: Any = None

    def start(self, schema: str) -> Grammar:
        """The grammar of a JSON schema (as JSON text). Raises DataError for one that cannot be followed."""
        return Grammar(self._start(schema).deep_copy())

    def _compile(self, schema: str) -> Any:
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise ConfigError("json_schema needs llguidance: pip install 'llavakit[serve]'") from None
        try:
            json.loads(schema)
        except ValueError as error:
            raise DataError(f"json_schema: not JSON: {error}") from None
        if self._vocabulary is None:
            hf: Any = self._tokenizer.hf
            self._vocabulary = from_tokenizer(hf, eos_token=sorted(self._stop_ids))
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=LAYOUT)
        except ValueError as error:
            raise DataError(f"json_schema: {error}") from None
        matcher = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise DataError(f"json_schema: {matcher.get_error().splitlines()[0]}")
        return matcher
