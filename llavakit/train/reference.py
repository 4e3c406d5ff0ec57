"""The reference of preference learning: the model that a run starts from, always.

It is what the trained weights were before the first step; all that is frozen is shared with the policy. So one
mechanism serves full training, fresh adapters, adapters that go on from others, and quantized models. Instead of
the weights, what they give for the run's answers can be kept: stored_reference.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from llavakit.core.types import Batch
from llavakit.model.adapters import fresh_adapters, without_adapters
from llavakit.model.llava import Llava
from llavakit.train.answers import answer_logprobs, num_answers, sum_answers
from llavakit.train.sharding import is_sharded, local_shard, reshard


def switch_off_dropout(model: Llava) -> None:
    """For as long as the model lives: policy and reference then differ by their weights alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Many decoders of `transformers` have theirs as numbers.
        shares = [name for name, value in vars(module).items() if isinstance(value, float)]
        vars(module).update({name: 0.0 for name in shares if name.endswith("dropout")})


class Reference(Protocol):
    """What says how likely the answers of a row were at the start."""

    def logprobs(self, model: Llava, batch: Batch, length_weight: float) -> Tensor:
        """float32[A], as `answer_logprobs` of the model that `model` was. Every rank calls it for every row."""
        ...


class KeptReference:
    """Numbers that stand beside the row's tokens, put there by who looked at them before the first step."""

    def __init__(self, column: str) -> None:
        """`column` of a batch has a log-probability of each learned token."""
        self.column = column

    def logprobs(self, model: Llava, batch: Batch, length_weight: float) -> Tensor:
        if not num_answers(batch):  # a row that keeps step with other ranks
            return batch.weights_L.new_zeros(0)
        return sum_answers(batch.columns[self.column], batch, length_weight)


class CopiedReference:
    """Copies of the weights that learn, as they were. Adapters that were fresh are switched off instead."""

    def __init__(self, model: Llava, *, adapted: bool = False) -> None:
        """Take the copies: before the first step, or of a model that was built from what the run starts from.

        `adapted`: it has adapters.
        """
        # Of shards each rank sees its own only, and all must do alike.
        fresh = fresh_adapters(model) if adapted and not is_sharded(model) else {}
        self._without = bool(fresh)
        self.copies: dict[str, Tensor] = {
            name: local_shard(param.detach()).clone()
            for name, param in model.named_parameters()
            if param.requires_grad and name not in fresh
        }

    @torch.no_grad()
    def logprobs(self, model: Llava, batch: Batch, length_weight: float) -> Tensor:
        with self.in_place(model):
            return answer_logprobs(model, batch, length_weight)[0]

    @contextmanager
    def in_place(self, model: Llava) -> Iterator[None]:
        """The model as it was at the start, without dropout, while the block runs."""
        training = model.training
        model.eval()
        self._exchange(model)
        try:
            with without_adapters(model) if self._without else nullcontext():
                yield
        finally:
            self._exchange(model)
            model.train(training)

    @torch.no_grad()
    def _exchange(self, model: Llava) -> None:
        """Swap weights and copies by where they lie, so that nothing is moved; shards, which FSDP owns, in turn."""
        reshard(model)  # gathered weights would be used in the place of those that are swapped
        torch.clear_autocast_cache()  # and so would their copies in bf16
        for name, param in model.named_parameters():
            if name not in self.copies:
                continue
            here, there = local_shard(param.data), self.copies[name]
            if is_sharded(model):
                kept = here.clone()
                here.copy_(there)
                there.copy_(kept)
            else:
                param.data, self.copies[name] = there, here
