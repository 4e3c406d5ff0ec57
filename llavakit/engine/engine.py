"""The engine: prompts are prefilled once, packed; then every running sequence gains a token per step."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from llavakit.core.errors import DataError
from llavakit.core.types import IMAGE_ID, Segment
from llavakit.data.encode import Sample, join
from llavakit.data.pack import collate
from llavakit.engine.cache import SlotCache
from llavakit.engine.sampler import Sampler, Sampling
from llavakit.model.llava import Llava


def _never(index: int, token: int) -> bool:
    return False


class Engine:
    """Generates for many samples at once. Neighbouring samples about the same images share their prompt's start.

    `max_sequences` bounds how many run together; the rest wait. Speaks token ids; `chat.py` speaks messages.
    """

    def __init__(self, model: Llava, stop_ids: frozenset[int], *, max_sequences: int = 64) -> None:
        self.model, self.stop_ids, self.max_sequences = model.eval(), stop_ids, max_sequences
        self.context = model.context

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[list[int]]:
        """The generated ids of each sample, without the stop token."""
        out: list[list[int]] = [[] for _ in samples]
        for index, token in self.stream(samples, sampling):
            out[index].append(token)
        return out

    def stream(
        self, samples: Sequence[Sample], sampling: Sampling, ends: Callable[[int, int], bool] = _never
    ) -> Iterator[tuple[int, int]]:
        """(sample index, token id), as they are made. Ends when every sample has met a stop token or its limit.

        `ends` is told each of them and may say that its sample is at its end (a stop string of several tokens).
        """
        for sample in samples:
            if sample.length >= self.context:
                raise DataError(
                    f"the prompt has {sample.length} tokens; the model's context (max_position_embeddings) "
                    f"is {self.context}"
                )
        sampler = Sampler(sampling, len(samples))
        for start in range(0, len(samples), self.max_sequences):
            indices = list(range(start, min(start + self.max_sequences, len(samples))))
            yield from self._run([samples[index] for index in indices], indices, sampler, ends)

    @torch.no_grad()
    def _run(
        self, samples: list[Sample], indices: list[int], sampler: Sampler, ends: Callable[[int, int], bool]
    ) -> Iterator[tuple[int, int]]:
        cache = SlotCache()
        logits_SV = self._prefill(samples, cache)
        room = [
            min(sampler.sampling.max_tokens, self.context - sample.length) for sample in samples
        ]  # tokens each slot may still say
        positions = [sample.length for sample in samples]
        slots = list(range(len(samples)))  # the sample in each cache slot
        while True:
            tokens = sampler.choose(logits_SV, [indices[slot] for slot in slots])
            running = []
            for place, (slot, token) in enumerate(zip(slots, tokens, strict=True)):
                if room[slot] > 0 and token not in self.stop_ids:
                    room[slot] = 0 if ends(indices[slot], token) else room[slot] - 1
                    yield indices[slot], token
                else:
                    room[slot] = 0
                if room[slot] > 0:
                    running.append(place)
            if not running:
                return
            if len(running) <= len(slots) // 2:  # finished slots cost a step; removing them costs a copy
                cache.keep(torch.tensor(running, device=self.model.device))
                slots, tokens = [slots[place] for place in running], [tokens[place] for place in running]
            logits_SV = self._step(tokens, [positions[slot] for slot in slots], cache)
            for slot in slots:
                positions[slot] += 1

    def _prefill(self, samples: list[Sample], cache: SlotCache) -> Tensor:
        """Logits after each prompt; the cache holds a slot per sample, in order."""
        trees = [join(list(group)) for _, group in groupby(samples, key=_opening)]
        tiles = [media.tiles() for tree in trees for media in tree.media]
        batch = collate(trees, tiles, learn=False).to(self.model.device)
        parents = {segment.parent for segment in batch.segments}
        leaves = [segment for index, segment in enumerate(batch.segments) if index not in parents]
        cache.start([_path(leaf, batch.segments).to(self.model.device) for leaf in leaves])
        hidden_TD = self.model.hidden(batch, cache)
        return self.model.logits(hidden_TD[[leaf.end - 1 for leaf in leaves]])

    def _step(self, tokens: list[int], positions: list[int], cache: SlotCache) -> Tensor:
        device = self.model.device
        x_SD = self.model.language.get_input_embeddings()(torch.tensor(tokens, device=device))
        hidden_SD = self.model.decode(x_SD, torch.tensor(positions, device=device), cache.step(), cache)
        return self.model.logits(hidden_SD)


def _opening(sample: Sample) -> tuple[object, ...]:
    """What neighbours must have in common to share a prefix: everything up to the last image."""
    images = [at for at, token in enumerate(sample.ids) if token == IMAGE_ID]
    return sample.media, sample.ids[: images[-1] + 1 if images else 0]


def _path(leaf: Segment, segments: tuple[Segment, ...]) -> Tensor:
    """Row numbers from the root's first token to the leaf's last: what its next token sees."""
    parts = []
    at: Segment | None = leaf
    while at is not None:
        parts.append(torch.arange(at.start, at.end))
        at = None if at.parent is None else segments[at.parent]
    return torch.cat(parts[::-1])
