"""From a request to the deltas of its answer: fetch, prepare in threads, run on the engine, cancel when left.

The event loop only waits. Four kinds of threads work: those that fetch, those that prepare text, those that wait
for the processes that decode, and the engine's own, which hands every token back to the loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event as Flag
from typing import TypeVar

from llavakit.core.errors import ConfigError, DataError
from llavakit.data.encode import Encoder
from llavakit.data.media import Media, plan_measured
from llavakit.engine.engine import Engine
from llavakit.engine.grammar import SchemaError
from llavakit.engine.request import ContextError, Event, Request
from llavakit.engine.worker import Ticket, Worker
from llavakit.serve.answers import PromptDetails, Usage
from llavakit.serve.bridge import Bridge
from llavakit.serve.budget import MemoryBudget, MemoryShare, plan_memory
from llavakit.serve.choice import Choice, Delta, Spelling
from llavakit.serve.conversation import (
    MediaUrl,
    calling,
    check_bounds,
    conversation,
    media_urls,
    sampling,
    texts,
    video_rule,
)
from llavakit.serve.decoding import Decoders, Elsewhere, Job
from llavakit.serve.errors import ApiError, invalid_media
from llavakit.serve.fetch import Address, Fetcher, is_elsewhere
from llavakit.serve.media import Budget, MediaReader, Received, num_pixels
from llavakit.serve.parse import parse
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig
from llavakit.serve.sizes import answer_bytes, check_length, decoding_bytes, tile_bytes
from llavakit.text.conversation import Medium
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig

T = TypeVar("T")
AT_ONCE = 4  # pictures of one request that are fetched side by side


class Service:
    """One model that answers requests, with its threads. Close it in the end."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        settings: ServeConfig,
        *,
        worker: Worker | None = None,
        fetcher: Fetcher | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        """With `decoders` of their own, several services share them; whoever made them closes them."""
        self.engine, self.encoder, self.settings = engine, encoder, settings
        self.worker = worker or Worker(engine)
        self.media = MediaReader(settings, fetcher or default_fetcher(settings))
        self.plan = plan_memory(engine, settings.memory_gb, decoders=settings.decode_processes)
        self.memory = MemoryBudget(self.plan.requests)
        self.began = int(time.time())
        self._closed = False
        self._bridge: Bridge | None = None  # to the event loop of the first request, and there is only one
        self._spelling = Spelling(encoder.tokenizer)
        self._stops = encoder.tokenizer.stop_strings(encoder.template)
        self._fetching = ThreadPoolExecutor(settings.fetch_threads, "llavakit-fetch")
        self._preparing = ThreadPoolExecutor(settings.prepare_threads, "llavakit-prepare")
        self._decoders = decoders or Decoders(settings.decode_processes, settings.decode_seconds)
        self._own_decoders = decoders is None
        # One more than processes: a picture is ready for the one that becomes free.
        self._decoding = ThreadPoolExecutor(settings.decode_processes + 1, "llavakit-decode")

    def close(self, *, finish: bool = True) -> None:
        """Stop the threads; with `finish`, when they have done what they are at. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self.worker.close(finish=finish)
        if self._own_decoders and not finish:
            self._decoders.close()
        for pool in (self._fetching, self._preparing, self._decoding):
            pool.shutdown(wait=finish, cancel_futures=True)
        if self._own_decoders:
            self._decoders.close()

    async def parse(self, body: bytes) -> ChatRequest:
        """The request in a body, checked against this server's bounds."""
        return await _run(self._preparing, self._parse, body)

    async def start(self, request: ChatRequest, share: MemoryShare, owner: bytes = b"") -> "Answer":
        """Fetch, prepare and hand over to the engine. Raises ApiError for what cannot be answered.

        What it takes is held of `share`, also while it is answered. What the engine remembers of it is found again
        by requests of the same `owner` only.
        """
        deadline = asyncio.get_running_loop().time() + self.settings.request_seconds
        job, whole = Job(self._decoders, Flag()), False
        try:
            async with self.within(deadline):
                media = await self._gather(media_urls(request), job, share)
                # Text never waits behind somebody's pictures.
                pool = self._decoding if media else self._preparing
                prepared = await _run(pool, self._prepare, request, media, share, owner, job)
            whole = True
        finally:
            if not whole:
                job.stop.set()
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        return Answer(self, request, prepared, deadline, self._bridge)

    @asynccontextmanager
    async def within(self, deadline: float) -> AsyncIterator[None]:
        """What takes longer is a 504. `deadline` is in the time of the event loop."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise ApiError(
                f"not answered within {self.settings.request_seconds:g} s; ask for less, or later",
                status=504, code="timeout",
            ) from None  # fmt: skip

    def choices(self, request: ChatRequest) -> list[Choice]:
        """Readers of the answer's choices."""
        stops, how = (*self._stops, *request.stops), calling(request)
        return [Choice(index, self._spelling, stops, how) for index in range(request.n or 1)]

    async def _gather(self, media: Sequence[MediaUrl], job: Job, share: MemoryShare) -> list[Received]:
        """All media, a few at a time; when one cannot be had the others are not waited for."""
        turns, budget = asyncio.Semaphore(AT_ONCE), Budget(self.settings.max_media_bytes, share=share)

        async def read(medium: MediaUrl) -> Received:
            # What is not off the web never waits behind somebody's slow web server.
            pool = self._fetching if medium.url[:4].lower() == "http" else self._decoding
            async with turns:
                return await _run(pool, self._read, medium, budget, job)

        reading = [asyncio.ensure_future(read(medium)) for medium in media]
        try:
            return await asyncio.gather(*reading)
        finally:
            for each in reading:
                each.cancel()

    def _parse(self, body: bytes) -> ChatRequest:
        request = parse(body, self.settings.max_json_values)
        check_bounds(request, self.settings)
        return request

    def _read(self, medium: MediaUrl, budget: Budget, job: Job) -> Received:
        try:
            return self.media.read(medium.url, medium.sort, budget, job.measure)
        except DataError as error:
            raise invalid_media(medium.param, error) from None

    def _prepare(
        self,
        request: ChatRequest,
        media: Sequence[Received],
        share: MemoryShare,
        owner: bytes,
        job: Job,
    ) -> Request:
        talk = conversation(request, [each.data for each in media], self.encoder.template.system)
        how = sampling(request, self.settings)
        pixels, ahead = (
            Budget(self.settings.max_media_pixels, "pixels"),
            iter([(where, each.measured) for where, each in zip(media_urls(request), media, strict=True)]),
        )

        def plan(part: Medium, image: ImageConfig, video: VideoConfig | None, *, alone: bool) -> Media:
            where, measured = next(ahead)
            try:
                found = plan_measured(part, measured, image, video_rule(request, video), alone=alone)
                pixels.take(num_pixels(found, measured))
            except DataError as error:
                raise invalid_media(where.param, error) from None
            return Elsewhere(found.source, found.plan, found.depth, job, where.param)

        vocabulary = self.engine.model.language.config.vocab_size
        beyond = [token for token in how.logit_bias if token >= vocabulary]
        if beyond:
            raise ApiError(f"there is no token {beyond[0]}; the model has {vocabulary}", param="logit_bias")
        try:
            check_length(texts(request), self.encoder.tokenizer, self.engine.context)
            sample = self.encoder.encode(talk, open_turn=True, plan=plan)
            share.hold("answer", answer_bytes(sample, how))
            share.hold("tiles", sum(tile_bytes(medium.plan) for medium in sample.media))
            share.hold("decoding", max((decoding_bytes(each.measured) for each in media), default=0))
            prepared = self.engine.prepare(sample, how, salt=owner)
            share.hold("decoding", 0)
            share.hold("tiles", sum(tiles.nbytes for tiles in prepared.tiles.values()))  # some were known
            return prepared
        except ContextError as error:
            raise _too_long(error, "messages") from None
        except SchemaError as error:
            raise ApiError(str(error), param=_shaping(request), code="invalid_schema") from None
        except (DataError, ConfigError) as error:
            raise ApiError(str(error), param="messages") from None


class Answer:
    """An answer on the engine: iterate over its deltas, and `close` it, whatever happened."""

    def __init__(
        self, service: Service, request: ChatRequest, prepared: Request, deadline: float, bridge: Bridge
    ) -> None:
        self._service, self._deadline, self._bridge = service, deadline, bridge
        self._choices = service.choices(request)
        self.streamed = bool(request.stream)
        self.with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        self._open = len(self._choices)
        self._queue: asyncio.Queue[list[Delta] | ApiError] = asyncio.Queue()
        self._sample = prepared.sample
        self._ticket: Ticket = service.worker.submit(prepared, self._listen, self._ends)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        said = sum(choice.num_tokens for choice in self._choices)
        asked = self._sample.num_tokens
        seen = sum(medium.plan.num_tokens for medium in self._sample.media)
        return Usage(
            prompt_tokens=asked,
            completion_tokens=said,
            total_tokens=asked + said,
            prompt_tokens_details=PromptDetails(image_tokens=seen),
        )

    @property
    def num_choices(self) -> int:
        """How many answers were asked for."""
        return len(self._choices)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while self._open:
            async with self._service.within(self._deadline):
                deltas = await self._queue.get()
            if isinstance(deltas, ApiError):
                raise deltas
            for delta in deltas:
                self._open -= delta.finish is not None
                yield delta

    def close(self) -> bool:
        """Free the engine's slot if the answer is not complete; whether that was so."""
        was_open, self._open = self._open > 0, 0
        if was_open:
            self._ticket.cancel()
        return was_open

    def _ends(self, choice: int, token: int) -> bool:
        return self._choices[choice].ends(token)

    def _listen(self, event: Event) -> None:
        broken = event.finish in ("failed", "cancelled")
        deltas = _failure(event) if broken else self._choices[event.choice].take(event)
        if deltas != []:
            self._bridge.call(self._queue.put_nowait, deltas)


def _too_long(error: ContextError, param: str) -> ApiError:
    """In OpenAI's words, which clients look for."""
    return ApiError(
        f"This model's maximum context length is {error.context} tokens. However, your {param} resulted in "
        f"{error.length} tokens. Please reduce the length of the {param}.",
        param=param, code="context_length_exceeded",
    )  # fmt: skip


def _shaping(request: ChatRequest) -> str:
    """The field that an answer's schema is made of."""
    return "tools" if calling(request).forced else "response_format"


def _failure(event: Event) -> ApiError:
    """Why an answer broke off: for a reason in the request, or one of ours, which the log has."""
    if isinstance(event.error, DataError):
        return ApiError(str(event.error), param="response_format", code="invalid_schema")
    return ApiError("the engine failed at this request", status=500, code="engine_failed")


def default_fetcher(settings: ServeConfig) -> Fetcher:
    """What the settings say about the web."""
    schemes = ("https", "http") if settings.allow_http else ("https",)

    def allowed(address: Address) -> bool:
        return is_elsewhere(address) and not any(address in network for network in settings.refuse_networks)

    return Fetcher(
        settings.fetch_seconds, settings.max_redirects, schemes, allowed=allowed, ports=settings.fetch_ports
    )


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
