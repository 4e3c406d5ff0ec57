"""Answers by their tokens, as vLLM gives them with `return_tokens_as_token_ids`: for who learns what was drawn.

Every log-probability names its token by number, and the token that ends an answer is told too.
"""

from typing import Any

from llavakit.data.encode import Encoder
from llavakit.engine.request import Request
from llavakit.serve.choice import LEAST, Choice, Likely, Spelling
from llavakit.serve.conversation import calling
from llavakit.serve.schema import ChatRequest


class Numbers(Spelling):
    """Tokens as vLLM writes them then: token_id:7."""

    def likely(self, token: int, logprob: float) -> Likely:
        return Likely(f"token_id:{token}", None, max(logprob, LEAST))


class WithEnd(Choice):
    """A choice that ends with one of `end_ids`, which is said like any other token."""

    def __init__(self, *given: Any, end_ids: frozenset[int]) -> None:
        super().__init__(*given)
        self._end_ids = end_ids

    def ends(self, token: int) -> bool:
        return super().ends(token) or token in self._end_ids


def numbered_choices(
    request: ChatRequest, prepared: Request, encoder: Encoder, model_ends: frozenset[int]
) -> list[Choice]:
    """Readers of the choices of a request that asks for numbers (`ChatRequest.by_numbers`); none for any other."""
    if not request.by_numbers:
        return []
    spelling, how = Numbers(encoder.tokenizer), calling(request)
    stops = (*encoder.tokenizer.stop_strings(encoder.template), *request.stops)
    ends = frozenset(request.stop_token_ids or ()) | (frozenset() if request.ignore_eos else model_ends)
    return [WithEnd(index, spelling, stops, how, end_ids=ends) for index in range(prepared.sampling.n)]
