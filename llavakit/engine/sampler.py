"""How the next token is chosen.

Shape letters: S sequences, V vocabulary, B blocks of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor
from torch.nn import functional as F

from llavakit.core.config import Config
from llavakit.engine.grammar import Grammar

MOST = 1024  # tokens that are sorted first
COLDEST = 1e-5  # what is colder is greedy: at such temperatures the likeliest token is all there is to draw
TOGETHER = 2**22  # scores in float32 that are drawn from at once
BLOCK = 256  # probabilities that are summed first
LARGEST = 1e30  # of a score, so that no later division leaves the numbers of float32

Penalty = Annotated[FiniteFloat, Field(ge=-2, le=2)]
Bias = Annotated[FiniteFloat, Field(ge=-100, le=100)]


class Sampling(Config):
    """Temperature 0 is greedy. With a seed, a request draws the same whatever runs beside it.

    The order is that of `transformers` and vLLM: bias, repetition, frequency and presence penalty, grammar,
    temperature, top-k, top-p, min-p.
    """

    temperature: FiniteFloat = Field(default=0.0, ge=0)  # greedy below COLDEST
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: all
    min_p: float = Field(default=0.0, ge=0, le=1)  # relative to the likeliest token
    repetition_penalty: FiniteFloat = Field(default=1.0, gt=0)  # of prompt and answer (arXiv 1909.05858)
    presence_penalty: Penalty = 0.0  # taken from the score of every token that the answer has
    frequency_penalty: Penalty = 0.0  # taken as often as the answer has the token
    logit_bias: dict[Annotated[int, Field(ge=0)], Bias] = Field(default={})  # token id: added to its score
    max_tokens: int = Field(default=512, ge=1)
    seed: int = 0
    n: int = Field(default=1, ge=1)  # answers that share the prompt; answer i draws from stream seed + i
    stop: tuple[str, ...] = ()  # texts that end an answer; the engine needs a tokenizer for them
    stop_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    ignore_end: bool = False  # go on past the model's own end of an answer
    logprobs: int | None = Field(default=None, ge=0)  # of the chosen token, and of so many of the likeliest
    json_schema: str | None = None  # the answer must be JSON that this schema (as JSON text) admits
    call_schema: str | None = None  # the same for every <tool_call> in an answer, which is free otherwise


@dataclass(frozen=True)
class Choice:
    """A chosen token. Log-probabilities are those of the model: before penalty, grammar and temperature."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Draw:
    """What belongs to one sequence: its settings, its random stream, its grammar, and what it has said."""

    def __init__(
        self, sampling: Sampling, stream: int = 0, grammar: Grammar | None = None, prompt: Sequence[int] = ()
    ) -> None:
        """`prompt` is what the repetition penalty counts before the answer; slots of pictures are no tokens."""
        self.sampling, self.grammar = sampling, grammar
        self.greedy = sampling.temperature < COLDEST
        self._weighs = bool(
            sampling.repetition_penalty != 1
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.logit_bias
        )
        bent = grammar is not None or self._weighs
        self.plain = self.greedy and not bent  # the token is simply the likeliest
        cut = sampling.top_k or sampling.top_p < 1 or sampling.min_p
        # Every token can be drawn, by the temperature alone, and no other is told of.
        self.free = not (self.greedy or bent or cut or sampling.logprobs)
        self._seen = {token for token in prompt if token >= 0} if sampling.repetition_penalty != 1 else set()
        self._answer: Counter[int] = Counter()
        self._generator = torch.Generator().manual_seed((sampling.seed + stream) % 2**63)

    def weigh(self, scores_V: Tensor) -> Tensor:
        """Scores with bias and penalties; the given ones stay as they are."""
        if not self._weighs:
            return scores_V
        how, scores_V = self.sampling, scores_V.clone()
        if how.logit_bias:
            scores_V[_ids(how.logit_bias, scores_V)] += scores_V.new_tensor(list(how.logit_bias.values()))
        if how.repetition_penalty != 1 and (self._seen or self._answer):
            seen = _ids(self._seen | self._answer.keys(), scores_V)
            scores = scores_V[seen]
            scores_V[seen] = torch.where(
                scores > 0, scores / how.repetition_penalty, scores * how.repetition_penalty
            )
        if self._answer:
            counts = scores_V.new_tensor(list(self._answer.values()))
            scores_V[_ids(self._answer, scores_V)] -= how.presence_penalty + how.frequency_penalty * counts
        return scores_V.clamp_(-LARGEST, LARGEST)

    def number(self) -> float:
        """The next random number in [0, 1)."""
        return float(torch.rand(1, generator=self._generator, dtype=torch.float64))

    def accept(self, token: int) -> None:
        """The sequence says this token."""
        if self._weighs:
            self._answer[token] += 1
        if self.grammar is not None:
            self.grammar.accept(token)


def likeliest(logits_SV: Tensor) -> list[int]:
    """The first of the likeliest tokens of each sequence; -1 where the scores are no numbers."""
    # As argmax gives it, which takes nine times as long for bfloat16 on the CPU.
    best = logits_SV.max(dim=-1)
    tokens: list[int] = best.indices.masked_fill(best.values.isnan(), -1).tolist()
    return tokens


def draw_together(logits_SV: Tensor, draws: Sequence[Draw], best: Sequence[int]) -> Mapping[int, Choice]:
    """The next token of each row whose draw is `free`: what `choose` draws, for all in a few operations."""
    rows = [row for row, draw in enumerate(draws) if draw.free and best[row] >= 0]
    found: dict[int, Choice] = {}
    most = max(1, TOGETHER // logits_SV.shape[-1])
    for start in range(0, len(rows), most):
        few = rows[start : start + most]
        chosen_SV = logits_SV if len(few) == len(draws) else logits_SV[few]
        found |= zip(few, _draw_free(chosen_SV.float(), [draws[row] for row in few]), strict=True)
    return found


def _draw_free(scores_SV: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    heat_S1 = scores_SV.new_tensor([[draw.sampling.temperature] for draw in draws])
    probs_SV = (scores_SV / heat_S1).softmax(dim=-1)
    tokens_S = invert(probs_SV, probs_SV.new_tensor([draw.number() for draw in draws], dtype=torch.float64))
    said_S = scores_SV.log_softmax(dim=-1).gather(1, tokens_S[:, None])[:, 0]
    pairs = zip(draws, tokens_S.tolist(), said_S.tolist(), strict=True)
    return [Choice(token, None if draw.sampling.logprobs is None else said) for draw, token, said in pairs]


def invert(probs_SV: Tensor, numbers_S: Tensor) -> Tensor:
    """int64[S], the first token whose cumulative probability exceeds the number in [0, 1) of its row.

    Blocks are summed first, so that of most tokens no sum is kept. A token of probability 0 is never found.
    """
    blocks_SBV = F.pad(probs_SV, (0, -probs_SV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    ends_SB = blocks_SBV.sum(dim=-1).cumsum(dim=1, dtype=torch.float64)
    wanted_S = _below(numbers_S * ends_SB[:, -1], ends_SB)
    block_S = (ends_SB <= wanted_S[:, None]).sum(dim=1)
    at_S = torch.arange(len(block_S), device=block_S.device)
    before_S = F.pad(ends_SB, (1, 0))[at_S, block_S]
    ends_SV = blocks_SBV[at_S, block_S].cumsum(dim=-1, dtype=torch.float64)
    place_S = (ends_SV <= _below(wanted_S - before_S, ends_SV)[:, None]).sum(dim=1)
    return block_S * BLOCK + place_S


def _below(wanted_S: Tensor, ends_SB: Tensor) -> Tensor:
    """What is wanted, but less than all there is: where sums are rounded it could be no less."""
    last_S = ends_SB[:, -1]
    return torch.minimum(wanted_S, last_S.nextafter(torch.zeros_like(last_S)))


def choose(logits_SV: Tensor, row: int, draw: Draw, best: int) -> Choice:
    """The next token of the sequence in a row, which its draw has accepted; `best` is the likeliest one."""
    if best < 0:
        raise ArithmeticError("the model's scores are no numbers")
    token = best
    if not draw.plain:
        token = _draw(logits_SV[row], draw)
        draw.accept(token)
    return Choice(token) if draw.sampling.logprobs is None else _choice(logits_SV[row], draw, token)


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


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.long, device=like.device)


def _draw(logits_V: Tensor, draw: Draw) -> int:
    how = draw.sampling
    scores_V = draw.weigh(logits_V.float())
    if draw.grammar is not None:
        scores_V = draw.grammar.mask(scores_V)
    if draw.greedy:
        return int(scores_V.argmax())
    tokens, probs = distribution(scores_V, how)
    cumulative = probs.cumsum(dim=0, dtype=torch.float64)
    # The first token whose cumulative probability exceeds the draw; 1-ulp sums cannot run past the end.
    rank = int((cumulative <= draw.number() * cumulative[-1]).sum())
    rank = min(rank, int(probs.nonzero()[-1]))
    return rank if tokens is None else int(tokens[rank])


def _choice(logits_V: Tensor, draw: Draw, token: int) -> Choice:
    count = draw.sampling.logprobs or 0
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    best = logprobs_V.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token, float(logprobs_V[token]), top)
