"""What the learner finds about answers before it learns from them: how likely they are, now and at the start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llavakit.align.experience import Experience, Row, make_batch, plan_rows, split_columns
from llavakit.align.pictures import Pictures
from llavakit.align.rollouts import Rollout
from llavakit.align.value import ValueModel
from llavakit.core.types import Batch
from llavakit.data.encode import Sample
from llavakit.data.loader import Loader
from llavakit.data.media import Media
from llavakit.model.llava import Llava
from llavakit.text.conversation import Message
from llavakit.train.balance import balance_batches
from llavakit.train.losses import logprobs_and_entropy, token_logprobs
from llavakit.train.policy_objective import SAMPLED, VALUE, importance, logits_at
from llavakit.train.policy_settings import PolicyConfig
from llavakit.train.precision import autocast
from llavakit.train.ranks import Ranks
from llavakit.train.reference import CopiedReference
from llavakit.train.sharding import reshard


@dataclass
class Found:
    """What was found out about a rank's answers, token by token."""

    columns: list[dict[str, list[float]]]  # of each answer
    drift: list[float]  # nats between sampler and learner
    entropy: float = 0.0  # summed over the tokens


class Learner:
    """The model that learns, asked about answers: rows as in training, without gradients."""

    def __init__(
        self,
        policy: PolicyConfig,
        model: Llava,
        loader: Loader,
        reference: CopiedReference | None,
        ranks: Ranks,
        *,
        pictures: Pictures,
        value: ValueModel | None,
        precision: str,
    ) -> None:
        self.policy, self.model, self.loader, self.ranks = policy, model, loader, ranks
        self.reference, self.value, self.precision = reference, value, precision
        self.pictures = pictures

    def step(self, experiences: Sequence[Experience]) -> list[Batch]:
        """What a step learns from: rows for the value model, where there is one, and rows for the policy.

        The policy's come last, so that whoever looks at the model between steps finds its adapters in use.
        """
        if self.policy.learns_once:
            experiences = [each.with_columns({SAMPLED: each.rollout.logprobs}) for each in experiences]
        batches = [make_batch(row, experiences, self._show) for row in self._plan(experiences)]
        if self.value is None:
            return batches
        apart = [split_columns(batch, VALUE) for batch in batches]
        return [batch for batch, _ in apart] + [batch for _, batch in apart]

    @torch.no_grad()
    def measure(self, experiences: Sequence[Experience]) -> Found:
        """Columns `old` (recomputed by the learner), `reference` and `importance`, as far as settings ask for them.

        Of a policy that `learns_once` the first and the last are left to the pass that learns. Every rank of a run
        calls it, also one that has no answers.
        """
        rows = self._plan(experiences)
        found = Found([{} for _ in experiences], [])
        training = self.model.training
        self.model.eval()
        if not self.policy.learns_once:
            for batch, places in self._balanced(rows, experiences):
                self._note(found, experiences, places, batch)
        if self.value is not None:
            for batch, places in self._balanced(rows, experiences):
                self._note_values(found, experiences, places, batch)
            self.value.use_policy()
        if self.reference is not None:
            with self.reference.in_place(self.model):
                for batch, places in self._balanced(rows, experiences):
                    reference_L = self._reference(batch)
                    for place, column in _split(reference_L, experiences, places):
                        found.columns[place]["reference"] = column
        reshard(self.model)
        self.model.train(training)
        return found

    def _plan(self, experiences: Sequence[Experience]) -> list[Row]:
        return plan_rows(experiences, self._encode, self._encode_reply, self.loader.config.tokens)

    def _balanced(
        self, rows: Sequence[Row], experiences: Sequence[Experience]
    ) -> Iterator[tuple[Batch, list[int]]]:
        """Each row's batch with the places of its answers, one in memory at a time; as many on every rank."""
        [most] = self.ranks.largest([len(rows)])
        for number in range(most):
            chosen = rows[number : number + 1]
            mine = [make_batch(row, experiences, self._show) for row in chosen]
            tile = self.loader.encoder.image.size
            [batch] = balance_batches(mine, self.model, self.ranks, tile=tile)
            yield batch, [place for row in chosen for place in row.places]

    def _note(
        self,
        found: Found,
        experiences: Sequence[Experience],
        places: list[int],
        batch: Batch,
    ) -> None:
        cap = self.policy.algorithm.importance_cap
        old_L, plain_L, entropy_L = self._look(batch)
        found.entropy += float(entropy_L.sum())
        plain = dict(_split(plain_L, experiences, places))
        for place, column in _split(old_L, experiences, places):
            sampled = experiences[place].rollout.logprobs
            found.columns[place]["old"] = column
            found.drift += [abs(a - b) for a, b in zip(plain[place], sampled, strict=True)]
            if cap is not None:
                weights_L = importance(torch.tensor(column), torch.tensor(sampled), cap)
                found.columns[place]["importance"] = weights_L.tolist()

    def _note_values(
        self,
        found: Found,
        experiences: Sequence[Experience],
        places: list[int],
        batch: Batch,
    ) -> None:
        assert self.value is not None
        with autocast(self.model, self.precision):
            values_L = self.value.values(batch.to(self.model.device)).cpu()
        for place, column in _split(values_L, experiences, places):
            found.columns[place]["values"] = column

    def _look(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities at the policy's temperature and at 1, and the entropy, float32[L] each."""
        temperature, batch = self.policy.measured_at, batch.to(self.model.device)

        def look(rows_LD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = logits_at(temperature, self.model)
            new_L, entropy_L = logprobs_and_entropy(rows_LD, batch.labels_L, logits)
            if temperature == 1:
                return new_L, new_L, entropy_L
            return new_L, token_logprobs(rows_LD, batch.labels_L, self.model.logits), entropy_L

        with autocast(self.model, self.precision):
            hidden_LD = self.model.hidden(batch)[batch.predict_L]
            new_L, plain_L, entropy_L = self.model.with_head(look, hidden_LD)
        return new_L.cpu(), plain_L.cpu(), entropy_L

    def _reference(self, batch: Batch) -> Tensor:
        """Log-probabilities at the policy's temperature, float32[L], by the weights that are in place now."""
        batch, logits = batch.to(self.model.device), logits_at(self.policy.measured_at, self.model)
        with autocast(self.model, self.precision):
            hidden_LD = self.model.hidden(batch)[batch.predict_L]
            found_L = self.model.with_head(
                lambda rows_LD: token_logprobs(rows_LD, batch.labels_L, logits), hidden_LD
            )
        return found_L.cpu()

    def _show(self, media: Media) -> Tensor:
        """As `Pictures.show`, or what the run keeps on disk."""
        return self.pictures.show(media) if self.loader.cache is None else self.loader.tiles(media)

    def _encode(self, rollout: Rollout) -> Sample:
        return self.loader.encoder.encode(rollout.prompt, open_turn=True, plan=self.pictures.plan)

    def _encode_reply(self, reply: Message) -> Sample:
        return self.loader.encoder.encode_reply(reply, plan=self.pictures.plan)


def _split(
    values_L: Tensor, experiences: Sequence[Experience], places: list[int]
) -> list[tuple[int, list[float]]]:
    """(place, its numbers) of each answer of a row."""
    sizes = [len(experiences[place].rollout.ids) for place in places]
    return [(place, part.tolist()) for place, part in zip(places, values_L.split(sizes), strict=True)]
