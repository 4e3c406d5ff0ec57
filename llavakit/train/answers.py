"""How likely a model finds the answers of a packed row."""

import torch
from torch import Tensor

from llavakit.core.types import Batch
from llavakit.model.llava import Llava
from llavakit.train.losses import token_logprobs


def num_answers(batch: Batch) -> int:
    """Leaves of the row that something is learned of."""
    return int(batch.answers_L.max()) + 1 if len(batch.answers_L) else 0


def count_tokens(batch: Batch) -> Tensor:
    """Learned tokens of every answer of the row, float32[A]."""
    return torch.bincount(batch.answers_L, minlength=num_answers(batch)).float()


def per_answer(batch: Batch, name: str) -> Tensor:
    """A column whose numbers are the same for all tokens of an answer, float32[A]; a row of no answers has none."""
    column_L = batch.columns.get(name, batch.weights_L)
    return column_L.new_zeros(num_answers(batch)).index_put((batch.answers_L,), column_L)


def learned_logprobs(model: Llava, batch: Batch) -> Tensor:
    """The log-probability of every learned token of the row, float32[L]."""
    hidden_LD = model.hidden(batch)[batch.predict_L]
    return model.with_head(lambda rows_LD: token_logprobs(rows_LD, batch.labels_L, model.logits), hidden_LD)


def answer_logprobs(model: Llava, batch: Batch, length_weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """(summed log-probability, what its learned tokens count) of every answer of the row, float32[A] each.

    A token counts its own weight, 1 if nothing was said. With `length_weight` below 1 the log-probabilities of a
    pair's longer answer beyond the shorter one's length count so much of it (LD-DPO).
    """
    logprobs_L = learned_logprobs(model, batch)
    return sum_answers(logprobs_L, batch, length_weight), sum_answers(torch.ones_like(logprobs_L), batch)


def sum_answers(values_L: Tensor, batch: Batch, length_weight: float = 1.0) -> Tensor:
    """Numbers of learned tokens, weighed as `answer_logprobs` says, summed over each answer, float32[A]."""
    answers_L, weights_L = batch.answers_L, batch.weights_L
    tokens_A = count_tokens(batch)
    if length_weight != 1:
        first_A = (
            tokens_A.cumsum(0) - tokens_A
        )  # an answer's tokens stand together, in the order of the answers
        place_L = torch.arange(len(answers_L), device=answers_L.device) - first_A[answers_L]
        shorter_A = tokens_A.view(-1, 2).amin(dim=1).repeat_interleave(2)
        weights_L = torch.where(place_L < shorter_A[answers_L], weights_L, weights_L * length_weight)
    return torch.zeros_like(tokens_A).index_add(0, answers_L, values_L * weights_L)
