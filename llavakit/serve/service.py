"""From a request to the deltas of its answer: fetch, prepare in threads, run on the engine, cancel when left.

The event loop only waits. Five kinds of threads work: those that read bodies, those that fetch, those that prepare
text, those that wait for the processes that decode, and the engine's own, which tells the loop what is said.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from threading import Event as Flag
from typing import TypeVar

from llavakit.core.errors import DataError
from llavakit.data.encode import Encoder
from llavakit.engine.asked import WorkerResponder
from llavakit.engine.engine import Engine
from llavakit.engine.request import Request
from llavakit.engine.worker import Worker
from llavakit.serve.agent import AgentAnswer, AnyAnswer, Shown, Toolbox
from llavakit.serve.best import BestAnswer, BestOf
from llavakit.serve.bridge import Bridge
from llavakit.serve.budget import MemoryBudget, MemoryShare, plan_memory
from llavakit.serve.choice import Choice, Spelling
from llavakit.serve.completions import CompletionRequest
from llavakit.serve.conversation import Calling, MediaUrl, calling, media_urls, sampling, shaping
from llavakit.serve.decoding import Decoders, Job
from llavakit.serve.embeddings import EmbeddingList, EmbeddingRequest
from llavakit.serve.errors import ApiError, invalid_media
from llavakit.serve.fetch import Fetcher
from llavakit.serve.fields import Asked
from llavakit.serve.media import Budget, MediaReader, Received, default_fetcher, scheme_of
from llavakit.serve.parse import Body
from llavakit.serve.pooling import (
    PoolingEntry,
    PoolingList,
    PoolingRequest,
    PoolingUsage,
    check_facts,
    talk_of,
)
from llavakit.serve.preparing import Preparer
from llavakit.serve.responses import ResponsesRequest, as_chat, in_its_words
from llavakit.serve.running import Answer
from llavakit.serve.schema import ChatRequest
from llavakit.serve.settings import ServeConfig
from llavakit.serve.sizes import decoding_bytes
from llavakit.serve.token_ids import numbered_choices
from llavakit.text.grading import Grading
from llavakit.wire import POOLING

T = TypeVar("T")
R = TypeVar("R", bound=Asked)
AT_ONCE = 4  # pictures of one request that are fetched side by side
# Bodies read side by side: two, so that a short one need not wait for a long one. More would take turns of the
# interpreter's lock from the engine.
READERS = 2


class Service:
    """One model that answers requests, with its threads. Close it in the end."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        settings: ServeConfig,
        *,
        grading: Grading | None = None,
        best_of: BestOf | None = None,
        toolbox: Toolbox | None = None,
        worker: Worker | None = None,
        fetcher: Fetcher | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        """With `decoders` of their own, several services share them; whoever made them closes them.

        With `grading` it is a reward model, which scores and does not answer. With `best_of` every answer to a
        conversation is the best of several, with a `toolbox` the end of a run of calls; they are closed with it.
        """
        self.engine, self.encoder, self.settings, self.grading = engine, encoder, settings, grading
        self.best_of, self.toolbox = best_of, toolbox
        self.worker = worker or Worker(engine)
        self.media = MediaReader(settings, fetcher or default_fetcher(settings))
        self.plan = plan_memory(engine, settings.memory_gb, decoders=settings.decode_processes)
        self.memory = MemoryBudget(self.plan.requests)
        self.began = int(time.time())
        self._closed = False
        self._bridge: Bridge | None = None  # to the event loop of the first request, and there is only one
        self._spelling = Spelling(encoder.tokenizer)
        self._preparer = Preparer(engine, encoder, settings, self.worker, grading=grading, best_of=best_of)
        self._stops = encoder.tokenizer.stop_strings(encoder.template)
        self._fetching = ThreadPoolExecutor(settings.fetch_threads, "llavakit-fetch")
        self._reading = ThreadPoolExecutor(READERS, "llavakit-read")
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
        for part in (self.best_of, self.toolbox):
            if part is not None:
                part.close()
        self.worker.close(finish=finish)
        if self._own_decoders and not finish:
            self._decoders.close()
        for pool in (self._fetching, self._reading, self._preparing, self._decoding):
            pool.shutdown(wait=finish, cancel_futures=True)
        if self._own_decoders:
            self._decoders.close()

    async def parse(self, body: Body, read: Callable[[Body, ServeConfig], R]) -> R:
        """The request in a body, checked against this server's bounds."""
        return await _run(self._reading, read, body, self.settings)

    async def start(self, request: ChatRequest, share: MemoryShare, owner: bytes = b"") -> AnyAnswer:
        """Fetch, prepare and hand over to the engine. Raises ApiError for what cannot be answered.

        What it takes is held of `share`, also while it is answered. What the engine remembers of it is found again
        by requests of the same `owner` only.
        """
        deadline = asyncio.get_running_loop().time() + self.settings.request_seconds
        if self.toolbox is not None:
            return await self._start_run(request, self.toolbox, share, owner, deadline)
        if self.best_of is not None:
            self.best_of.check(request)
        job, whole = Job(self._decoders, Flag()), False
        try:
            async with self.within(deadline):
                media = await self._gather(media_urls(request), job, share)
                # Text never waits behind somebody's pictures.
                pool = self._decoding if media else self._preparing
                prepared, talk = await _run(pool, self._preparer.prepare, request, media, share, owner, job)
            whole = True
        finally:
            if not whole:
                job.stop.set()
        # Of several answers the best is known at their end. Log-probabilities are many: they are told as they come.
        live = bool(request.logprobs or request.stream) and self.best_of is None
        numbers = numbered_choices(request, prepared, self.encoder, self.engine.stop_ids)
        stops, how = (*self._stops, *request.stops), calling(request, self.settings.calls)
        answer = self._answer(
            [prepared], stops, how, shaping(request), deadline=deadline, live=live, numbers=numbers
        )
        if self.best_of is None:
            return answer
        choose = partial(_run, self.best_of.pool, self.best_of.choose, talk)
        return BestAnswer(answer, choose, partial(self.within, deadline))

    async def _start_run(
        self, request: ChatRequest, toolbox: Toolbox, share: MemoryShare, owner: bytes, deadline: float
    ) -> AgentAnswer:
        toolbox.check(request)
        job = Job(self._decoders, Flag())
        async with self.within(deadline):
            media = await self._gather(media_urls(request), job, share)
        share.hold("decoding", sum(decoding_bytes(each.measured) for each in media))
        model = WorkerResponder(self.engine, self.worker, self.encoder, salt=owner, plan=Shown(job, share))
        talk, how = self._preparer.talk(request, media), sampling(request, self.settings)
        within = partial(self.within, deadline)
        return AgentAnswer(toolbox, model, talk, how, self.encoder.template.system, job, within)

    async def respond(self, request: ResponsesRequest, share: MemoryShare, owner: bytes = b"") -> AnyAnswer:
        """As `start`, for the same conversation in other words."""
        with in_its_words(request):
            return await self.start(as_chat(request), share, owner)

    async def complete(self, request: CompletionRequest, share: MemoryShare, owner: bytes = b"") -> Answer:
        """As `start`, for texts that the model goes on with."""
        deadline = asyncio.get_running_loop().time() + self.settings.request_seconds
        async with self.within(deadline):
            prepared = await _run(self._preparing, self._preparer.prepare_prompts, request, share, owner)
        live = bool(request.stream) or request.logprobs is not None
        return self._answer(
            prepared, request.stops, Calling(), "prompt", deadline=deadline, live=live, trim=False
        )

    async def embed(self, request: EmbeddingRequest) -> EmbeddingList:
        """The mean of the last hidden states of each text."""
        async with self.within(asyncio.get_running_loop().time() + self.settings.request_seconds):
            return await _run(self._preparing, self._preparer.embed, request)

    def check_answers(self) -> None:
        """Refuse to answer with a model that only scores."""
        if self.grading is not None:
            raise ApiError(
                f"{self.settings.model_name!r} is a reward model: it scores (POST {POOLING}) and does not answer",
                param="model", code="model_not_supported",
            )  # fmt: skip

    async def pool(self, request: PoolingRequest, share: MemoryShare, number: str) -> PoolingList:
        """The score of a conversation's last answer, by a reward model."""
        if self.grading is None:
            raise ApiError(
                f"{self.settings.model_name!r} answers, and scores nothing: {POOLING} is for reward models",
                param="model", code="model_not_supported",
            )  # fmt: skip
        check_facts(request, wants=self.grading.facts, has_place=self.grading.has_place)
        job, whole = Job(self._decoders, Flag()), False
        try:
            async with self.within(asyncio.get_running_loop().time() + self.settings.request_seconds):
                media = await self._gather(media_urls(talk_of(request)), job, share)
                pool = self._decoding if media else self._preparing
                value, tokens = await _run(pool, self._preparer.score, request, media, share, job)
            whole = True
        finally:
            if not whole:
                job.stop.set()
        return PoolingList(
            id=f"pool-{number}",
            created=int(time.time()),
            model=self.settings.model_name,
            data=[PoolingEntry(index=0, data=[value])],
            usage=PoolingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )

    def _answer(
        self,
        prepared: Sequence[Request],
        stops: Sequence[str],
        how: Calling,
        shaping: str,
        *,
        deadline: float,
        live: bool,
        trim: bool = True,
        numbers: Sequence[Choice] = (),
    ) -> Answer:
        """Hand requests over to the engine. Their choices are numbered one request after the other."""
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        count = sum(request.sampling.n for request in prepared)
        choices = [Choice(index, self._spelling, stops, how, trim=trim, live=live) for index in range(count)]
        return Answer(
            self.worker, self._bridge, prepared, numbers or choices, shaping,
            live=live, deadline=deadline, late=self._late,
        )  # fmt: skip

    @asynccontextmanager
    async def within(self, deadline: float) -> AsyncIterator[None]:
        """What takes longer is a 504. `deadline` is in the time of the event loop."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> ApiError:
        return ApiError(
            f"not answered within {self.settings.request_seconds:g} s; ask for less, or later",
            status=504, code="timeout",
        )  # fmt: skip

    async def _gather(self, media: Sequence[MediaUrl], job: Job, share: MemoryShare) -> list[Received]:
        """All media, a few at a time; when one cannot be had the others are not waited for."""
        turns, budget = asyncio.Semaphore(AT_ONCE), Budget(self.settings.max_media_bytes, share=share)

        async def read(medium: MediaUrl) -> Received:
            # What is not off the web never waits behind somebody's slow web server.
            pool = self._fetching if scheme_of(medium.url) in ("http", "https") else self._decoding
            async with turns:
                return await _run(pool, self._read, medium, budget, job)

        reading = [asyncio.ensure_future(read(medium)) for medium in media]
        try:
            return await asyncio.gather(*reading)
        finally:
            for each in reading:
                each.cancel()

    def _read(self, medium: MediaUrl, budget: Budget, job: Job) -> Received:
        try:
            return self.media.read(medium.url, medium.sort, budget, job.measure)
        except DataError as error:
            raise invalid_media(medium.param, error) from None


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
