"""How the next token is chosen.

Shape letters: S sequences, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from llavakit.core.config import Config
from llavakit.engine.grammar import Grammar

MOST = 1024  # tokens that are sorted first


class Sampling(Config):
    """Temperature 0 is greedy. With a seed, a request draws the same whatever runs beside it.

    The order is that of `transformers`: repetition penalty, grammar, temperature, top-k, top-p, min-p.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: all
    min_p: float = Field(default=0.0, ge=0, le=1)  # relative to the likeliest token
    repetition_penalty: float = Field(default=1.0, gt=0)  # on tokens of prompt and answer (arXiv 1909.05858)
    max_tokens: int = Field(default=512, ge=1)
    seed: int = 0
    n: int = Field(default=1, ge=1)  # answers that share the prompt; answer i draws from stream seed + i
    stop: tuple[str, ...] = ()  # texts that end an answer; looked for where text is made (chat.py)
    stop_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    ignore_end: bool = False  # go on past the model's own end of an answer
    logprobs: int | None = Field(default=None, ge=0)  # of the chosen token, and of so many of the likeliest
    json_schema: str | None = None  # the answer must be JSON that this schema (as JSON text) admits


@dataclass(frozen=True)
class Choice:
    """A chosen token. Log-probabilities are those of the model: before penalty, grammar and temperature."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Draw:
    """What belongs to one sequence: its settings, its random stream, its grammar."""

    def __init__(self, sampling: Sampling, stream: int = 0, grammar: Grammar | None = None) -> None:
        self.sampling, self.grammar = sampling, grammar
        self._generator = torch.Generator().manual_seed((sampling.seed + stream) % 2**63)

    @property
    def plain(self) -> bool:
        """Whether the token is simply the likeliest one."""
        return (
            self.sampling.temperature == 0 and self.sampling.repetition_penalty == 1 and self.grammar is None
        )

    def number(self) -> float:
        """The next random number in [0, 1)."""
        return float(torch.rand(1, generator=self._generator, dtype=torch.float64))


def choose(logits_SV: Tensor, draws: Sequence[Draw], said: Sequence[Sequence[int]]) -> list[Choice]:
    """The next token of each sequence; `said` are its prompt and answer so far."""
    # The first of the likeliest, as argmax gives it, which takes nine times as long for bfloat16 on the CPU.
    tokens: list[int] = logits_SV.max(dim=-1).indices.tolist()
    for row, draw in enumerate(draws):
        if not draw.plain:
            tokens[row] = _draw(logits_SV[row], draw, said[row])
        if draw.grammar is not None:
            draw.grammar.accept(tokens[row])
    return [_choice(logits_SV[row], draw, tokens[row]) for row, draw in enumerate(draws)]


def distribution(scores_V: Tensor, how: Sampling) -> tuple[Tensor | None, Tensor]:
    """(tokens, probabilities that sum to 1) of all that can be drawn, likeliest first; None: every token, in order.

    Most probability lies on few tokens, so MOST are sorted first, and all only where they do not hold `top_p`.
    """
    scores_V = scores_V / how.temperature
    if how.top_k:
        scores_V, tokens = scores_V.topk(min(how.top_k, len(scores_V)))
        return tokens, _cut(scores_V.softmax(dim=0), how)
    if how.top_p == 1 and how.min_p == 0:
        return None, scores_V.softmax(dim=0)
    total = scores_V.logsumexp(dim=0)
    for count in (min(MOST, len(scores_V)), len(scores_V)):
        best, tokens = scores_V.topk(count)
        probs = (best - total).exp()
        if probs.sum() >= how.top_p or probs[-1] < how.min_p * probs[0]:
            break
    return tokens, _cut(probs, how)


def _cut(probs: Tensor, how: Sampling) -> Tensor:
    """Sorted probabilities without what top-p and min-p leave out."""
    before = probs.cumsum(dim=0) - probs
    kept = probs.masked_fill((before >= how.top_p) | (probs < how.min_p * probs[0]), 0)
    return kept / kept.sum()


def _draw(logits_V: Tensor, draw: Draw, said: Sequence[int]) -> int:
    how = draw.sampling
    scores_V = logits_V.float()
    if how.repetition_penalty != 1:
        seen = torch.tensor(sorted({token for token in said if token >= 0}), device=scores_V.device)
        scores = scores_V[seen]
        scores = torch.where(scores > 0, scores / how.repetition_penalty, scores * how.repetition_penalty)
        scores_V = scores_V.index_copy(0, seen, scores)
    if draw.grammar is not None:
        scores_V = draw.grammar.mask(scores_V)
    if how.temperature == 0:
        return int(scores_V.argmax())
    tokens, probs = distribution(scores_V, how)
    cumulative = probs.cumsum(dim=0, dtype=torch.float64)
    # The first token whose cumulative probability exceeds the draw; 1-ulp sums cannot run past the end.
    rank = int((cumulative <= draw.number() * cumulative[-1]).sum())
    rank = min(rank, int(probs.nonzero()[-1]))
    return rank if tokens is None else int(tokens[rank])


def _choice(logits_V: Tensor, draw: Draw, token: int) -> Choice:
    count = draw.sampling.logprobs
    if count is None:
        return Choice(token)
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    best = logprobs_V.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token, float(logprobs_V[token]), top)
