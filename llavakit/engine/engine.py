"""The engine: continuous batching. Every step is one forward of all that runs, whatever stage each is at.

Prompts enter in chunks beside the tokens of sequences that already answer; beginnings that were computed before are
copied; pictures go through the tower once. It speaks token ids; `chat.py` speaks messages.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import IMAGE_ID, Batch, Segment
from llavakit.data.encode import Sample
from llavakit.data.media import Media
from llavakit.data.pack import collate
from llavakit.engine.cache import SMALLEST, SlotCache
from llavakit.engine.decoder import Decoder, fuse
from llavakit.engine.features import FeatureCache
from llavakit.engine.grammar import Grammar, Grammars
from llavakit.engine.kv_slots import KvShape
from llavakit.engine.request import Ends, Event, Finish, Listen, Request, media_key, name_tokens, never
from llavakit.engine.sampler import Choice, Draw, Sampling, choose
from llavakit.engine.scheduler import Scheduler, Sequence, Step
from llavakit.model.attention import packed_layout
from llavakit.model.llava import KeyValueCache, Llava
from llavakit.text.tokenizer import Tokenizer

FEATURE_BYTES = 512 * 2**20  # of picture rows that are kept


@dataclass(frozen=True)
class Stats:
    """Where the engine stands, and what it has done since it was made."""

    waiting: int
    running: int
    kv_tokens: int  # positions there is memory for now
    kv_budget: int
    kv_token_bytes: int
    prompt_tokens: int
    copied_tokens: int  # prompt tokens that were known already
    answer_tokens: int
    preemptions: int
    tower_tiles: int


class Engine:
    """Generates for many requests at once. One thread may call it; `prepare` is for any thread."""

    def __init__(
        self,
        model: Llava,
        stop_ids: frozenset[int],
        *,
        tokenizer: Tokenizer | None = None,
        decoder: Decoder | None = None,
        max_sequences: int = 64,
        step_tokens: int = 2048,
        kv_bytes: int | None = None,
    ) -> None:
        """`tokenizer` is needed for `json_schema` only. `decoder` runs the model's layers (default: `fuse(model)`).

        `max_sequences` run together, the rest wait; a step computes at most `step_tokens` tokens, those of running
        answers first. `kv_bytes` bounds keys and values (default: an eighth of the memory; on CUDA three quarters
        of what is free).
        """
        self.model, self.stop_ids, self._device = model.eval(), stop_ids, model.device
        self._grammars = None if tokenizer is None else Grammars(tokenizer, stop_ids)
        self._decoder = fuse(model) if decoder is None else decoder
        shape = _kv_shape(model, self._decoder)
        budget = (_free_bytes(model.device) if kv_bytes is None else kv_bytes) // shape.token_bytes
        if budget < SMALLEST:
            raise ConfigError(
                f"kv_bytes={kv_bytes}: keys and values of one sequence take at least {SMALLEST * shape.token_bytes}"
            )
        self._cache = SlotCache(shape, budget)
        self.context = min(model.context, self._cache.longest)
        self._scheduler = Scheduler(self._cache, max_sequences=max_sequences, step_tokens=step_tokens)
        self._features = FeatureCache(model, FEATURE_BYTES)
        self._numbers = count()
        self._answer_tokens = 0

    @property
    def kernels(self) -> str:
        """Whose products the decoder runs on: "torch" or "native"."""
        return self._decoder.kernels

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    def prepare(self, sample: Sample, sampling: Sampling, *, salt: bytes = b"") -> Request:
        """Check a prompt and what is asked, name its pictures and decode those that are not known. For any thread.

        What is kept of a request is found again by requests of the same `salt` only.

        Raises DataError for a prompt that does not fit, an unreadable picture, a schema that cannot be kept.
        """
        if len(sample.segments) != 1:
            raise ValueError("a prompt is one segment")
        self._check_length(sample)
        self._check(sampling)
        keys = tuple(media_key(media, salt) for media in sample.media)
        tiles = {
            key: media.tiles()
            for key, media in zip(keys, sample.media, strict=True)
            if key not in self._features
        }
        return Request(sample, sampling, name_tokens(sample, keys), keys, tiles, salt)

    def submit(self, request: Request, listen: Listen, ends: Ends = never) -> int:
        """Put a request in the queue; its number. `listen` hears every event of it, in order.

        `ends` is told each token and may say that its choice is at its end (a stop string of several tokens).
        """
        number, sampling = next(self._numbers), request.sampling
        room = min(sampling.max_tokens, self.context - request.sample.num_tokens)
        for choice in range(sampling.n):
            ids, names = list(request.sample.ids), list(request.names)
            draw = Draw(sampling, choice, self._grammar(sampling), request.sample.ids)
            self._scheduler.add(Sequence(number, choice, request, draw, listen, ends, room, ids, names))
        return number

    def cancel(self, number: int) -> None:
        """End a request, wherever it is. One that has ended already stays as it is."""
        self._end_all([each for each in self._scheduler.all() if each.number == number], "cancelled")

    def abort(self, finish: Finish) -> None:
        """End every request, as after an error in a step; what was computed is forgotten."""
        self._end_all(self._scheduler.all(), finish)
        self._cache.clear()

    @torch.inference_mode()
    def step(self) -> None:
        """One forward of all that runs; those who listen hear what came of it."""
        step = self._scheduler.plan()
        if not step.decoding and not step.filling:
            return
        self._see(step.admitted)
        layout = self._cache.step([(sequence.slot, size) for sequence, size in step.filling if sequence.slot])
        speaking, rows = _speaking(step)
        last_S = torch.tensor(rows, dtype=torch.long, device=self._device)
        hidden_SD = self._decoder(self._embed(step), self._positions(step), layout, layout, last_S)
        layout.finish()
        for sequence, _ in step.filling:
            self._scheduler.filled(sequence)
        if speaking:
            logits_SV = self._decoder.logits(hidden_SD)
            self._hear(speaking, choose(logits_SV, [sequence.draw for sequence in speaking]))

    def generate(self, samples: Many[Sample], sampling: Sampling) -> list[list[int]]:
        """The generated ids of each sample, without the stop token."""
        out: list[list[int]] = [[] for _ in samples]
        for index, token in self.stream(samples, sampling):
            out[index].append(token)
        return out

    def stream(
        self, samples: Many[Sample], sampling: Sampling, ends: Ends = never
    ) -> Iterator[tuple[int, int]]:
        """(sample index, token id), as they are made. Ends when every sample has met a stop token or its limit.

        Sample i draws from the random stream seed + i. A stream that is dropped cancels what is left of it.
        """
        if sampling.n != 1:
            raise ValueError("stream gives one answer per sample; submit a request for more")
        heard: deque[tuple[int, Event]] = deque()
        requests = [
            self.prepare(sample, sampling.model_copy(update={"seed": sampling.seed + index}))
            for index, sample in enumerate(samples)
        ]
        numbers = [
            self._submit_indexed(request, index, heard, ends) for index, request in enumerate(requests)
        ]
        left = len(numbers)
        try:
            while left:
                self.step()
                while heard:
                    index, event = heard.popleft()
                    left -= event.finish is not None
                    if event.token is not None:
                        yield index, event.token
        finally:
            if left:
                for number in numbers:
                    self.cancel(number)

    def _submit_indexed(
        self, request: Request, index: int, heard: deque[tuple[int, Event]], ends: Ends
    ) -> int:
        return self.submit(
            request, lambda event: heard.append((index, event)), lambda _, token: ends(index, token)
        )

    @torch.inference_mode()
    def score(self, samples: Many[Sample]) -> list[list[float]]:
        """The log-probability of each learned token of each sample, in order: how likely given answers are."""
        scores: list[list[float]] = []
        for sample in samples:  # answers about one prompt share it as one sample (data/encode.py: join)
            batch = self._whole(sample)
            logits_LV = self._decoder.logits(self._hidden(batch, batch.predict_L))
            logprobs_LV = logits_LV.float().log_softmax(dim=-1)
            scores.append(logprobs_LV.gather(1, batch.labels_L[:, None]).flatten().tolist())
        return scores

    @torch.inference_mode()
    def embed(self, samples: Many[Sample]) -> Tensor:
        """[S, D] float32: the mean of each sample's last hidden states (after the decoder's final norm).

        Raises DataError for a sample that has no tokens or more than the context.
        """
        for sample in samples:
            self._check_length(sample)
        width = self.model.language.config.hidden_size
        means_SD = torch.empty(len(samples), width, device=self._device)
        for mean_D, sample in zip(means_SD, samples, strict=True):
            mean_D.copy_(self._hidden(self._whole(sample)).float().mean(dim=0))
        return means_SD

    def _whole(self, sample: Sample) -> Batch:
        """A sample as a row of its own."""
        return collate([sample], [media.tiles() for media in sample.media]).to(self._device)

    def _hidden(self, batch: Batch, last_L: Tensor | None = None) -> Tensor:
        layout = packed_layout(batch.segments, batch.ids_T.device)
        return self._decoder(self.model.embed(batch), batch.positions_T, layout, last_L=last_L)

    @torch.inference_mode()
    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy new weights (names of the model's state dict) into place.

        Running sequences go on with them from the beginning of their prompts; nothing computed before is used.
        """
        unknown = sorted(tensors.keys() - self.model.state_dict().keys())
        if unknown:
            raise ConfigError(f"refresh: the model has no weights called {', '.join(unknown[:3])}")
        for sequence in reversed(self._scheduler.running.copy()):
            self._scheduler.preempt(sequence)
        language = {name: tensors[name] for name in tensors if name.startswith("language.")}
        self.model.load_state_dict(
            {name: tensors[name] for name in tensors.keys() - language.keys()}, strict=False
        )
        self._decoder.refresh({name.removeprefix("language."): language[name] for name in language})
        self._cache.clear()
        self._features.clear()

    def stats(self) -> Stats:
        """Where the engine stands."""
        scheduler = self._scheduler
        return Stats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            kv_tokens=self._cache.tokens,
            kv_budget=self._cache.budget,
            kv_token_bytes=self._cache.shape.token_bytes,
            prompt_tokens=scheduler.prompt_tokens,
            copied_tokens=scheduler.known_tokens,
            answer_tokens=self._answer_tokens,
            preemptions=scheduler.preemptions,
            tower_tiles=self._features.tiles,
        )

    def _check_length(self, sample: Sample) -> None:
        """Raise for a prompt that is empty, or leaves no place for an answer."""
        if not sample.num_tokens:
            raise DataError("the prompt has no tokens; say something in it")
        if sample.num_tokens >= self.context:
            what = "the model's context (max_position_embeddings) is"
            if self.context < self.model.context:
                what = "the memory given to keys and values (kv_bytes) holds"
            raise DataError(f"the prompt has {sample.num_tokens} tokens; {what} {self.context}")

    def _check(self, sampling: Sampling) -> None:
        """Raise for what this model cannot do."""
        self._grammar(sampling)
        vocabulary = self.model.language.config.vocab_size
        beyond = [token for token in sampling.logit_bias if token >= vocabulary]
        if beyond:
            raise DataError(f"logit_bias: there is no token {beyond[0]}; this model has {vocabulary}")

    def _grammar(self, sampling: Sampling) -> Grammar | None:
        if sampling.json_schema is None:
            return None
        if self._grammars is None:
            raise ConfigError("json_schema: this engine was made without a tokenizer")
        return self._grammars.start(sampling.json_schema)

    def _see(self, admitted: list[Sequence]) -> None:
        """The rows of all pictures that admitted sequences still need, in one run of the tower."""
        needed = [(sequence, _unseen(sequence)) for sequence in admitted]
        media = {key: media for _, each in needed for key, media in each}
        if not media:
            return
        tiles = {key: tiles for sequence in admitted for key, tiles in sequence.request.tiles.items()}
        rows = self._features.rows(media, tiles)
        for sequence, each in needed:
            if each:
                slots = sequence.ids[sequence.done :].count(IMAGE_ID)
                sequence.rows_SD = torch.cat([rows[key] for key, _ in each])[-slots:] if slots else None

    def _embed(self, step: Step) -> Tensor:
        """x_TD of a step's rows."""
        ids = [sequence.ids[-1] for sequence in step.decoding]
        slots: list[int] = []
        pictures: list[Tensor] = []
        for sequence, size in step.filling:
            new = sequence.ids[sequence.done : sequence.done + size]
            mine = [len(ids) + at for at, token in enumerate(new) if token == IMAGE_ID]
            ids += [max(token, 0) for token in new]  # IMAGE_ID is no row of the table
            if mine and sequence.rows_SD is not None:
                slots += mine
                pictures.append(sequence.rows_SD[: len(mine)])
                sequence.rows_SD = sequence.rows_SD[len(mine) :]
        x_TD: Tensor = self.model.language.get_input_embeddings()(torch.tensor(ids, device=self._device))
        if slots:
            x_TD[torch.tensor(slots, device=x_TD.device)] = torch.cat(pictures).to(x_TD.dtype)
        return x_TD

    def _positions(self, step: Step) -> Tensor:
        positions = [sequence.done for sequence in step.decoding]
        for sequence, size in step.filling:
            positions += range(sequence.done, sequence.done + size)
        return torch.tensor(positions, device=self._device)

    def _hear(self, speaking: list[Sequence], choices: list[Choice]) -> None:
        """What each sequence said: it goes on, or ends."""
        for sequence, choice in zip(speaking, choices, strict=True):
            sampling, token = sequence.request.sampling, choice.token
            if token in sampling.stop_ids or (token in self.stop_ids and not sampling.ignore_end):
                self._end(sequence, "stop")
                continue
            sequence.say(token)
            self._answer_tokens += 1
            grammar = sequence.draw.grammar
            if sequence.ends(sequence.choice, token) or (grammar is not None and grammar.ended):
                self._end(sequence, "stop", choice)
            elif sequence.room == 0:
                self._end(sequence, "length", choice)
            else:
                sequence.listen(Event(sequence.number, sequence.choice, token, choice.logprob, choice.top))

    def _end(self, sequence: Sequence, finish: Finish, choice: Choice | None = None) -> None:
        self._scheduler.remove(sequence)
        who = sequence.number, sequence.choice
        if choice is None:
            sequence.listen(Event(*who, None, finish=finish))
        else:
            sequence.listen(Event(*who, choice.token, choice.logprob, choice.top, finish))

    @torch.inference_mode()  # the memory that moves was made in it
    def _end_all(self, sequences: list[Sequence], finish: Finish) -> None:
        for sequence in sequences:
            self._end(sequence, finish)


def _speaking(step: Step) -> tuple[list[Sequence], list[int]]:
    """The sequences that will have said all they know after this step, and each one's last row."""
    speaking, rows = list(step.decoding), list(range(len(step.decoding)))
    row = len(rows)
    for sequence, size in step.filling:
        row += size
        if sequence.done + size == len(sequence.ids):
            speaking.append(sequence)
            rows.append(row - 1)
    return speaking, rows


def _unseen(sequence: Sequence) -> list[tuple[bytes, Media]]:
    """The media of a sequence that have slots behind what is done, with their keys."""
    left = sequence.ids[sequence.done :].count(IMAGE_ID)
    out: list[tuple[bytes, Media]] = []
    for key, media in reversed(list(zip(sequence.request.keys, sequence.request.sample.media, strict=True))):
        if left <= 0:
            break
        out.append((key, media))
        left -= media.plan.num_tokens
    return out[::-1]


def _free_bytes(device: torch.device) -> int:
    """What keys and values may take if nobody says: an eighth of the machine, or three quarters of a free GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 3 // 4
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8


class _Probe(KeyValueCache):
    """A cache that only looks at what it is given."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[torch.Size, torch.Size, torch.dtype]] = {}

    def update(self, key_1HTD: Tensor, value_1HTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.seen[layer] = (key_1HTD.shape, value_1HTD.shape, key_1HTD.dtype)
        return key_1HTD, value_1HTD


@torch.inference_mode()
def _kv_shape(model: Llava, decoder: Decoder) -> KvShape:
    """Found by running one token, which says it for every decoder alike."""
    probe, device = _Probe(), model.device
    x_TD = model.language.get_input_embeddings()(torch.zeros(1, dtype=torch.long, device=device))
    layout = packed_layout((Segment(0, 1),), device)
    decoder(x_TD, torch.zeros(1, dtype=torch.long, device=device), layout, probe)
    (key, value, dtype), *others = set(probe.seen.values())
    if others or key != value:
        raise ConfigError(
            f"{type(model.language).__name__}: its layers store keys and values of different shapes"
        )
    return KvShape(len(probe.seen), key[1], key[3], dtype, device)
