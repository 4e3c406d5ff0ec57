"""The engine: continuous batching. Every step is one forward of all that runs, whatever stage each is at.

Prompts enter in chunks beside the tokens of sequences that already answer; beginnings that were computed before are
copied; pictures go through the tower once. It speaks token ids; `chat.py` speaks messages.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import IMAGE_ID, Batch, Segment
from llavakit.data.encode import Sample
from llavakit.data.pack import collate
from llavakit.engine import native
from llavakit.engine.buckets import Record
from llavakit.engine.cache import SMALLEST, SlotCache
from llavakit.engine.decoder import Decoder, describe_kernels, fuse
from llavakit.engine.fault import Boundary, report
from llavakit.engine.features import FeatureCache
from llavakit.engine.forward import Forward, Spoken
from llavakit.engine.grammar import Grammar, Grammars
from llavakit.engine.graphs import recorder
from llavakit.engine.request import (
    Album,
    ContextError,
    Ends,
    Event,
    Finish,
    Listen,
    Request,
    Stops,
    name_tokens,
    never,
)
from llavakit.engine.sampler import Choice, Draw, Sampling, choose, draw_together, likeliest
from llavakit.engine.scheduler import Scheduler
from llavakit.engine.scoring import num_learned, score_rows
from llavakit.engine.step import Sequence
from llavakit.engine.trial import kv_shape
from llavakit.engine.weights import check_fit
from llavakit.model.fused import packed_layout
from llavakit.model.llava import Llava
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
        record: Record | None = None,
    ) -> None:
        """`tokenizer` is needed for `json_schema` and `stop`. `decoder` runs the layers (default: `fuse(model)`).

        `max_sequences` run together, the rest wait; a step computes about `step_tokens` tokens, those of running
        answers first, but a quarter is for prompts; tiles in the tower count too. `kv_bytes` bounds keys and values
        (default: an eighth of the memory; on CUDA three quarters of what is free). `record`: see graphs.py.
        """
        self.model, self.stop_ids, self._device = model.eval(), stop_ids, model.device
        self._tokenizer = tokenizer
        self._grammars = None if tokenizer is None else Grammars(tokenizer, stop_ids)
        self._decoder = fuse(model) if decoder is None else decoder
        shape = kv_shape(model.language, self._decoder)
        budget = (_free_bytes(model.device) if kv_bytes is None else kv_bytes) // shape.token_bytes
        if budget < SMALLEST:
            raise ConfigError(
                f"kv_bytes={kv_bytes}: keys and values of one sequence take at least {SMALLEST * shape.token_bytes}"
            )
        self._cache = SlotCache(shape, budget)
        self.context = min(model.context, self._cache.longest)
        self._features = FeatureCache(model, FEATURE_BYTES)
        self._scheduler = Scheduler(
            self._cache, self._features, max_sequences=max_sequences, step_tokens=step_tokens
        )
        self._forward = Forward(model, self._decoder, self._features, record or recorder(model))
        self._numbers = count()
        self._answer_tokens = 0

    @property
    def kernels(self) -> str:
        """Whose products the decoder runs on: "torch" or "native"."""
        return self._decoder.kernels

    @property
    def about(self) -> str:
        """One line about what the decoder runs on, and why it is not the native kernels."""
        return describe_kernels(self._decoder)

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    def prepare(
        self, sample: Sample, sampling: Sampling, *, salt: bytes = b"", album: Album | None = None
    ) -> Request:
        """Check a prompt and what is asked, name its pictures and decode those that are not known. For any thread.

        What is kept of a request is found again by requests of the same `salt` only. `album` has the pictures of
        those that are prepared together, with the same salt.

        Raises DataError for a prompt that does not fit, an unreadable picture, a schema that cannot be kept.
        """
        if len(sample.segments) != 1:
            raise ValueError("a prompt is one segment")
        self._check_length(sample)
        grammar = self._check(sampling)
        slots = tuple(place for place, token in enumerate(sample.ids) if token == IMAGE_ID)
        album = album or Album(salt)
        keys = tuple(album.key(media) for media in sample.media)
        tiles = {
            key: album.tiles(key, media)
            for key, media in zip(keys, sample.media, strict=True)
            if key not in self._features
        }
        return Request(sample, sampling, name_tokens(sample, keys, slots), keys, tiles, slots, grammar, salt)

    def submit(self, request: Request, listen: Listen, ends: Ends = never) -> int:
        """Put a request in the queue; its number. `listen` hears every event of it, in order.

        `ends` is told each token and may say that its choice is at its end (a stop string of several tokens).
        """
        number, sampling = next(self._numbers), request.sampling
        room = min(sampling.max_tokens, self.context - request.sample.num_tokens)
        if sampling.stop:
            ends = Stops(self._text("stop"), sampling, ends)
        sequences = []
        for choice in range(sampling.n):
            ids, names = list(request.sample.ids), list(request.names)
            grammar = None if request.grammar is None else request.grammar.begin()
            draw = Draw(sampling, choice, grammar, request.sample.ids)
            sequences.append(Sequence(number, choice, request, draw, listen, ends, room, ids, names))
        for sequence in sequences:  # all or none
            self._scheduler.add(sequence)
        return number

    def cancel(self, number: int) -> None:
        """End a request, wherever it is. One that has ended already stays as it is."""
        self._end_all([each for each in self._scheduler.all() if each.number == number], "cancelled")

    def abort(self, finish: Finish, error: Exception | None = None) -> None:
        """End every request, as after an error in a step; what was computed is forgotten."""
        self._cache = SlotCache(self._cache.shape, self._cache.budget)
        self._features.clear()
        for sequence in self._scheduler.reset(self._cache):
            sequence.ended = True
            self._tell_end(sequence, finish, error)

    @torch.inference_mode()
    def step(self) -> None:
        """One forward of all that runs; those who listen hear what came of it."""
        step = self._scheduler.plan()
        if not step.sequences:
            return
        spoken = self._forward.run(step, self._cache)
        failed = {sequence for sequence, _ in spoken.failed}
        for sequence in step.filling:
            if sequence not in failed:
                self._scheduler.filled(sequence)
        for sequence, error in spoken.failed:
            self._fail(sequence, error)
        if spoken.speaking:
            self._hear(spoken)

    def generate(self, samples: Many[Sample], sampling: Sampling) -> list[list[int]]:
        """The generated ids of each sample, without the stop token."""
        out: list[list[int]] = [[] for _ in samples]
        for index, token in self.stream(samples, sampling):
            out[index].append(token)
        return out

    def stream(
        self, samples: Many[Sample], sampling: Sampling, ends: Ends = never
    ) -> Iterator[tuple[int, int]]:
        """(sample index, token id), as they are made: the tokens of `events`."""
        for index, event in self.events(samples, sampling, ends):
            if event.token is not None:
                yield index, event.token

    def events(
        self, samples: Many[Sample], sampling: Sampling, ends: Ends = never
    ) -> Iterator[tuple[int, Event]]:
        """(sample index, event), in order. Ends when every sample has met a stop token or its limit.

        Sample i draws from the random stream seed + i. A stream that is dropped cancels what is left of it.
        """
        if sampling.n != 1:
            raise ConfigError(f"n={sampling.n}: one answer is given for each prompt; ask the prompt n times")
        heard: deque[tuple[int, Event]] = deque()
        album = Album()
        requests = [
            self.prepare(sample, sampling.model_copy(update={"seed": sampling.seed + index}), album=album)
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
                    if event.error is not None:
                        raise event.error
                    yield index, event
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
        """The log-probability of each learned token of each sample, in order: how likely given answers are.

        Short samples are computed together. Answers about one prompt share it as one sample (data/encode.py: join).
        """
        scores: list[list[float]] = []
        for row in score_rows(samples):
            batch = self._whole(*row)
            logits_LV = self._decoder.logits(self._hidden(batch, batch.predict_L))
            logprobs_LV = logits_LV.float().log_softmax(dim=-1)
            said = logprobs_LV.gather(1, batch.labels_L[:, None]).flatten().tolist()
            for sample in row:
                count = num_learned(sample)
                scores.append(said[:count])
                said = said[count:]
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
            mean_D.copy_(self._hidden(self._whole(_with_last(sample))).float().mean(dim=0))
        return means_SD

    @torch.inference_mode()
    def rewards(self, batch: Batch) -> Tensor:
        """float32[A]: what a reward model makes of every answer of a packed row (`Encoder.encode_graded`)."""
        batch = batch.to(self._device)
        return self.model.score(self._hidden(batch, batch.ends_A))

    def _whole(self, *samples: Sample) -> Batch:
        """Samples as a row of their own."""
        tiles = [media.tiles() for sample in samples for media in sample.media]
        return collate(samples, tiles).to(self._device)

    def _hidden(self, batch: Batch, last_L: Tensor | None = None) -> Tensor:
        layout = packed_layout(batch.segments, batch.ids_T.device)
        return self._decoder(self.model.embed(batch), batch.positions_T, layout, last_L=last_L)

    @torch.inference_mode()
    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy new weights (names of the model's state dict) into place.

        Running sequences go on with them from the beginning of their prompts; nothing computed before is used.
        All are checked first: weights that do not fit (ConfigError) leave the model and what runs as they are.
        """
        language = {
            name.removeprefix("language."): tensor
            for name, tensor in tensors.items()
            if name.startswith("language.")
        }
        others = {name: tensor for name, tensor in tensors.items() if not name.startswith("language.")}
        own = self.model.state_dict()
        check_fit(own, others)
        self._decoder.check(language)
        for sequence in reversed(self._scheduler.running.copy()):
            self._scheduler.preempt(sequence)
        for name, tensor in others.items():
            own[name].copy_(tensor)
        self._decoder.refresh(language)
        self._forward.forget()
        self._cache.clear()
        self._features.clear()

    def stats(self) -> Stats:
        """Where the engine stands. For any thread, while it works."""
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
            raise ContextError(sample.num_tokens, self.context, what)

    def _check(self, sampling: Sampling) -> Grammar | None:
        """Raise for what this model cannot do. The grammar that the answer has to keep to."""
        if sampling.stop:
            self._text("stop")
        vocabulary = self.model.language.config.vocab_size
        beyond = [token for token in sampling.logit_bias if token >= vocabulary]
        if beyond:
            raise DataError(f"logit_bias: there is no token {beyond[0]}; this model has {vocabulary}")
        if sampling.json_schema is not None and sampling.call_schema is not None:
            raise ConfigError(
                "json_schema and call_schema exclude each other: an answer is JSON, or text with calls"
            )
        schema = sampling.json_schema or sampling.call_schema
        if schema is None:
            return None
        self._text("json_schema" if sampling.call_schema is None else "call_schema")
        assert self._grammars is not None
        return self._grammars.of(schema, in_text=sampling.call_schema is not None)

    def _text(self, setting: str) -> Tokenizer:
        """The tokenizer, for a setting that is about text."""
        if self._tokenizer is None:
            raise ConfigError(f"{setting}: this engine was made without a tokenizer")
        return self._tokenizer

    def _hear(self, spoken: Spoken) -> None:
        """What each sequence says: it goes on, or ends. A fault of one is no business of the others."""
        find = native.likeliest if self.kernels == "native" else likeliest
        best, speaking = find(spoken.logits_SV), spoken.speaking
        drawn = draw_together(spoken.logits_SV, [each.draw for each in speaking], best)
        left, saying = iter(range(len(speaking))), speaking[0]
        while True:
            with Boundary() as own:  # one for all: entering it costs as much as to choose a token
                for row in left:
                    saying = speaking[row]
                    self._say(saying, drawn.get(row) or choose(spoken.logits_SV, row, saying.draw, best[row]))
                return
            assert own.error is not None
            self._fail(saying, own.error)

    def _say(self, sequence: Sequence, choice: Choice) -> None:
        sampling, token = sequence.request.sampling, choice.token
        if token in sampling.stop_ids or (token in self.stop_ids and not sampling.ignore_end):
            self._end(sequence, "stop")
            return
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
        sequence.ended = True
        who = sequence.number, sequence.choice
        if choice is None:
            sequence.listen(Event(*who, None, finish=finish))
        else:
            sequence.listen(Event(*who, choice.token, choice.logprob, choice.top, finish))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """End one sequence because of a fault that is its own: of its pictures, its grammar or who listens."""
        report(f"choice {sequence.choice} of request {sequence.number} failed", error)
        self._tell_end(sequence, "failed", error)
        if not sequence.ended:  # if this raises, the cache is broken, and the step has failed for all
            self._scheduler.remove(sequence)
            sequence.ended = True

    def _tell_end(self, sequence: Sequence, finish: Finish, error: Exception | None) -> None:
        """Whatever the listener does with it."""
        with Boundary() as own:
            sequence.listen(Event(sequence.number, sequence.choice, None, finish=finish, error=error))
        if own.error is not None:
            report(f"request {sequence.number} could not be told of its end", own.error)

    @torch.inference_mode()  # the memory that moves was made in it
    def _end_all(self, sequences: list[Sequence], finish: Finish) -> None:
        for sequence in sequences:
            with Boundary() as own:
                self._end(sequence, finish)
            if own.error is not None:
                self._fail(sequence, own.error)


def _with_last(sample: Sample) -> Sample:
    """A sample of one segment, and a token that is only there to be left out: a batch looks at all but the last."""
    ids, weights = (*sample.ids, 0), (*sample.weights, 0.0)
    return replace(sample, ids=ids, weights=weights, segments=(Segment(0, len(ids)),))


def _free_bytes(device: torch.device) -> int:
    """What keys and values may take if nobody says: an eighth of the machine, or three quarters of a free GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 3 // 4
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
