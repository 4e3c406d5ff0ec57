"""What is asked becomes what the engine takes: text encoded, media planned and decoded elsewhere, memory held.

Everything here runs in threads of the service and knows no event loop. What cannot be answered is an ApiError that
names the field.
"""

from collections.abc import Sequence
from functools import partial

from llavakit.core.errors import ConfigError, DataError
from llavakit.data.encode import Encoder, PlanMedia
from llavakit.data.media import Media, plan_measured
from llavakit.data.pack import collate
from llavakit.engine.engine import Engine
from llavakit.engine.grammar import SchemaError
from llavakit.engine.request import ContextError, Request
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.serve.best import BestOf
from llavakit.serve.budget import MemoryShare
from llavakit.serve.call_forms import CALL_FORMS
from llavakit.serve.completions import LENGTH, CompletionRequest, plain_sample, prompt_ids
from llavakit.serve.completions import texts as prompt_texts
from llavakit.serve.conversation import conversation, media_urls, sampling, shaping, texts, video_rule
from llavakit.serve.decoding import Elsewhere, Job
from llavakit.serve.embeddings import (
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    check_dimensions,
    entry,
    text_sample,
)
from llavakit.serve.errors import ApiError, invalid_media, too_long
from llavakit.serve.media import Budget, Received, num_pixels
from llavakit.serve.pooling import PoolingRequest, talk_of
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig
from llavakit.serve.sizes import answer_bytes, check_length, decoding_bytes, tile_bytes
from llavakit.text.conversation import Conversation, Medium
from llavakit.text.grading import Grading
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig


class Preparer:
    """Requests for one model. Any thread may ask."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        settings: ServeConfig,
        worker: Worker,
        *,
        grading: Grading | None,
        best_of: BestOf | None,
    ) -> None:
        """With `grading` it scores; with `best_of` it asks for several answers where one is wanted.

        What a forward pass answers at once (`embed`, `score`) is taken between two steps of `worker`.
        """
        self.engine, self.encoder, self.settings, self.worker = engine, encoder, settings, worker
        self.grading, self.best_of = grading, best_of

    def prepare(
        self,
        request: ChatRequest,
        media: Sequence[Received],
        share: MemoryShare,
        owner: bytes,
        job: Job,
    ) -> tuple[Request, Conversation]:
        """The request for the engine, and the conversation that it is made of."""
        talk = self.talk(request, media)
        how = sampling(request, self.settings)
        if self.best_of is not None:
            how = self.best_of.several(how)
        plan = self._planner(request, media, job)
        self._check_bias(how)
        try:
            check_length(texts(request), self.encoder.tokenizer, self.engine.context)
            sample = self.encoder.encode(talk, open_turn=True, plan=plan)
            share.hold("answer", answer_bytes(sample, how))
            share.hold("tiles", sum(tile_bytes(medium.plan) for medium in sample.media))
            share.hold("decoding", max((decoding_bytes(each.measured) for each in media), default=0))
            prepared = self.engine.prepare(sample, how, salt=owner)
            share.hold("decoding", 0)
            share.hold("tiles", sum(tiles.nbytes for tiles in prepared.tiles.values()))  # some were known
            return prepared, talk
        except ContextError as error:
            raise too_long(error, "messages") from None
        except SchemaError as error:
            raise ApiError(str(error), param=shaping(request), code="invalid_schema") from None
        except (DataError, ConfigError) as error:
            raise ApiError(str(error), param="messages") from None

    def talk(self, request: ChatRequest, media: Sequence[Received]) -> Conversation:
        """The messages with their pictures, below the model's own system text."""
        return conversation(
            request,
            [each.data for each in media],
            self.encoder.template.system,
            CALL_FORMS[self.settings.calls],
        )

    def score(
        self, request: PoolingRequest, media: Sequence[Received], share: MemoryShare, job: Job
    ) -> tuple[float, int]:
        """(score, tokens of the prompt)."""
        assert self.grading is not None
        chat = talk_of(request)
        talk = self.talk(chat, media)
        try:
            said = (*texts(chat), *(request.facts or ()))
            check_length(said, self.encoder.tokenizer, self.engine.context)
            plan = self._planner(chat, media, job)
            sample = self.encoder.encode_graded([talk], self.grading, request.facts or (), plan=plan)
            share.hold("tiles", sum(tile_bytes(medium.plan) for medium in sample.media))
            share.hold("decoding", max((decoding_bytes(each.measured) for each in media), default=0))
            batch = collate([sample], [medium.tiles() for medium in sample.media])
            share.hold("decoding", 0)
            # One conversation between two steps of the engine.
            (value,) = self.worker.run(partial(self.engine.rewards, batch)).tolist()
        except ContextError as error:
            raise too_long(error, "messages") from None
        except DataError as error:
            raise ApiError(str(error), param="messages") from None
        return value, sample.num_inputs

    def _planner(self, request: ChatRequest, media: Sequence[Received], job: Job) -> PlanMedia:
        """Plans the request's media, in their order, and has them decoded elsewhere."""
        pixels = Budget(self.settings.max_media_pixels, "pixels")
        ahead = iter([(where, each.measured) for where, each in zip(media_urls(request), media, strict=True)])

        def plan(part: Medium, image: ImageConfig, video: VideoConfig | None, *, alone: bool) -> Media:
            where, measured = next(ahead)
            try:
                found = plan_measured(part, measured, image, video_rule(request, video), alone=alone)
                pixels.take(num_pixels(found, measured))
            except DataError as error:
                raise invalid_media(where.param, error) from None
            return Elsewhere(found.source, found.plan, found.depth, job, where.param)

        return plan

    def prepare_prompts(self, request: CompletionRequest, share: MemoryShare, owner: bytes) -> list[Request]:
        """A request for the engine of each text that the model goes on with."""
        how = request.sampling(request.max_tokens or LENGTH, n=request.n, logprobs=request.logprobs)
        self._check_bias(how)
        prepared, held = list[Request](), 0
        try:
            check_length(prompt_texts(request.prompts), self.encoder.tokenizer, self.engine.context)
            for number, prompt in enumerate(request.prompts):
                ids = prompt_ids(prompt, self.encoder.tokenizer)
                sample = plain_sample(ids, self._vocabulary, "prompt")
                held += answer_bytes(sample, how)
                share.hold("answer", held)
                # Each draws from streams of its own, as the choices of one prompt do.
                own = how.model_copy(update={"seed": how.seed + number * how.n})
                prepared.append(self.engine.prepare(sample, own, salt=owner))
        except ContextError as error:
            raise too_long(error, "prompt") from None
        except DataError as error:
            raise ApiError(str(error), param="prompt") from None
        return prepared

    def embed(self, request: EmbeddingRequest) -> EmbeddingList:
        """The mean of the last hidden states of each text."""
        width: int = self.engine.model.language.config.hidden_size
        check_dimensions(request, width)
        tokenizer, bos, tokens = self.encoder.tokenizer, self.encoder.template.bos, 0
        entries = []
        try:
            check_length(prompt_texts(request.prompts), tokenizer, self.engine.context)
            for index, text in enumerate(request.prompts):
                sample = text_sample(text, tokenizer, bos=bos, vocabulary=self._vocabulary, param="input")
                tokens += sample.num_tokens
                # One text between two steps: answers go on meanwhile.
                (mean_D,) = self.worker.run(partial(self.engine.embed, [sample])).cpu()
                entries.append(entry(index, mean_D, request))
        except ContextError as error:
            raise too_long(error, "input") from None
        except DataError as error:
            raise ApiError(str(error), param="input") from None
        usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        return EmbeddingList(model=self.settings.model_name, data=entries, usage=usage)

    def _check_bias(self, how: Sampling) -> None:
        beyond = [token for token in how.logit_bias if token >= self._vocabulary]
        if beyond:
            raise ApiError(
                f"there is no token {beyond[0]}; the model has {self._vocabulary}", param="logit_bias"
            )

    @property
    def _vocabulary(self) -> int:
        return int(self.engine.model.language.config.vocab_size)
