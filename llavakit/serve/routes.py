"""The routes. Each is a few lines; the work is the service's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llavakit.serve.agent import AnyAnswer
from llavakit.serve.answers import ChatWriter, Health, ModelEntry, ModelList
from llavakit.serve.body import read_json, unless_gone
from llavakit.serve.budget import MemoryShare
from llavakit.serve.choice import Delta
from llavakit.serve.completions import CompletionRequest, CompletionWriter, check_completion, completion_texts
from llavakit.serve.conversation import check_bounds, media_urls, texts
from llavakit.serve.embeddings import EmbeddingList, EmbeddingRequest, check_embedding
from llavakit.serve.errors import ApiError, ClientGone
from llavakit.serve.fields import Drawn
from llavakit.serve.gate import GONE, Visit
from llavakit.serve.lifting import lifting_reader
from llavakit.serve.metrics import CONTENT_TYPE, Metrics
from llavakit.serve.parse import Body, reader
from llavakit.serve.places import Places
from llavakit.serve.pooling import PoolingList, PoolingRequest, check_pooling
from llavakit.serve.response_writer import ResponseWriter
from llavakit.serve.responses import (
    ResponsesRequest,
    check_responses,
    responses_links,
    responses_texts,
)
from llavakit.serve.schema import ChatRequest
from llavakit.serve.service import Service
from llavakit.serve.settings import ServeConfig
from llavakit.serve.writer import Writer

R = TypeVar("R", bound=Drawn)
N = TypeVar("N", bound=BaseModel)


@dataclass(frozen=True)
class Door(Generic[R]):
    """One way of asking for an answer: how a request is read and begun, and how it is answered."""

    read: Callable[[Body, ServeConfig], R]
    texts: Callable[[R], Iterable[str]]
    start: Callable[[R, MemoryShare, bytes], Awaitable[AnyAnswer]]
    writer: Callable[[str, str, R], Writer]


class Routes:
    """The HTTP face of a service."""

    def __init__(self, service: Service, metrics: Metrics, places: Places) -> None:
        self.service, self.metrics, self.places, self.settings = service, metrics, places, service.settings
        read_chat = lifting_reader(ChatRequest, check_bounds, media_urls)
        self._chat_door = Door(read_chat, texts, service.start, ChatWriter)
        read_responses = lifting_reader(ResponsesRequest, check_responses, responses_links)
        self._responses_door = Door(read_responses, responses_texts, service.respond, ResponseWriter)
        self._completions_door = Door(
            reader(CompletionRequest, check_completion), completion_texts, service.complete, CompletionWriter
        )

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, in one piece or as server-sent events."""
        return await self._reply(request, self._chat_door)

    async def responses(self, request: Request) -> Response:
        """The same in the words of OpenAI's newer API. Nothing is stored."""
        return await self._reply(request, self._responses_door)

    async def completions(self, request: Request) -> Response:
        """Go on with texts that stand as they are, without a template."""
        return await self._reply(request, self._completions_door)

    async def embeddings(self, request: Request) -> Response:
        """The mean of the last hidden states of texts."""

        async def work(body: Body, share: MemoryShare) -> tuple[EmbeddingList, int]:
            asked = await self.service.parse(body, reader(EmbeddingRequest, check_embedding))
            self.service.check_answers()
            found = await self.service.embed(asked)
            return found, found.usage.prompt_tokens

        return await self._number(request, work)

    async def pooling(self, request: Request) -> Response:
        """What a reward model makes of the last answer of a conversation."""
        visit: Visit = request.state.visit

        async def work(body: Body, share: MemoryShare) -> tuple[PoolingList, int]:
            asked = await self.service.parse(body, reader(PoolingRequest, check_pooling))
            found = await self.service.pool(asked, share, visit.number)
            return found, found.usage.prompt_tokens

        return await self._number(request, work)

    async def _number(
        self, request: Request, work: Callable[[Body, MemoryShare], Coroutine[Any, Any, tuple[N, int]]]
    ) -> Response:
        """What `work` makes of a body in one piece; it also tells how many tokens that took."""
        visit: Visit = request.state.visit
        try:
            self.places.check()
            share = visit.exits.enter_context(closing(MemoryShare(self.service.memory)))
            body = await read_json(request, self.settings, share)
            visit.exits.enter_context(self.places.take())
            found, tokens = await unless_gone(request, work(body, share))
        except ClientGone:
            return Response(status_code=GONE)
        visit.notes["prompt_tokens"] = tokens
        text = await asyncio.to_thread(found.model_dump_json)
        return Response(text, media_type="application/json")

    async def _reply(self, request: Request, door: Door[R]) -> Response:
        visit: Visit = request.state.visit
        try:
            self.places.check()
            share = visit.exits.enter_context(closing(MemoryShare(self.service.memory)))
            # The body is nobody's but `_start`'s: it is let go when it is parsed, however long the answer takes.
            answer, writer, stream = await unless_gone(
                request, self._start(await read_json(request, self.settings, share), visit, share, door)
            )
            if stream:
                events = self._events(answer, writer, visit)
                return StreamingResponse(
                    events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
                )
            return await unless_gone(request, self._whole(answer, writer, visit))
        except ClientGone:
            return Response(status_code=GONE)

    async def models(self) -> ModelList:
        """The model that is served."""
        return ModelList(data=[self._entry()])

    async def model(self, name: str) -> ModelEntry:
        """The model that is served, if it is the one asked for."""
        if name != self.settings.model_name:
            raise ApiError(
                f"model {name!r} is not served here", status=404, param="model", code="model_not_found"
            )
        return self._entry()

    async def health(self) -> Health:
        """Whether the server answers."""
        return Health(model=self.settings.model_name)

    async def metrics_page(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    def _entry(self) -> ModelEntry:
        grading = self.service.grading
        return ModelEntry(
            id=self.settings.model_name,
            created=self.service.began,
            max_model_len=self.service.engine.context,
            scores=grading is not None,
            wants_facts=grading is not None and grading.facts,
        )

    async def _start(
        self, body: Body, visit: Visit, share: MemoryShare, door: Door[R]
    ) -> tuple[AnyAnswer, Writer, bool]:
        """The answer, who writes it, and whether it is a stream. The request, with its pictures, is let go."""
        visit.exits.enter_context(self.places.take())
        asked = await self.service.parse(body, door.read)
        self.service.check_answers()
        size = len(body)
        del body
        share.hold("body", size)  # the strings that were made of it
        visit.notes["stream"] = bool(asked.stream)
        if self.settings.log_content:
            visit.notes["question"] = list(door.texts(asked))
        answer = await door.start(asked, share, visit.owner)
        share.hold("body", 0)
        visit.exits.callback(self._end, answer, visit)
        return answer, door.writer(visit.number, self.settings.model_name, asked), bool(asked.stream)

    async def _whole(self, answer: AnyAnswer, writer: Writer, visit: Visit) -> Response:
        async for deltas in answer:
            self._heed(deltas, visit)
            for delta in deltas:
                writer.gather(delta)
        # Beside the loop: with log-probabilities it may be a hundred megabytes.
        body = await asyncio.to_thread(writer.whole, answer.num_choices, answer.usage)
        return Response(body, media_type="application/json")

    async def _events(self, answer: AnyAnswer, writer: Writer, visit: Visit) -> AsyncIterator[bytes]:
        """The answer as server-sent events; an error on the way is the last of them."""
        try:
            yield writer.opening(answer.num_choices)
            async for deltas in answer:
                self._heed(deltas, visit)
                yield b"".join(map(writer.events, deltas))
            yield writer.closing(answer.usage)
        except ApiError as error:
            visit.notes["error"] = error.code
            yield writer.failure(error)

    def _heed(self, deltas: Sequence[Delta], visit: Visit) -> None:
        if "first_text_seconds" not in visit.notes:
            visit.notes["first_text_seconds"] = round(visit.seconds, 4)
            self.metrics.first_token.observe(visit.seconds)
        for delta in deltas:
            if delta.finish is not None:
                visit.notes.setdefault("finish", []).append(delta.finish)
            if self.settings.log_content:
                visit.notes["answer"] = visit.notes.get("answer", "") + delta.text

    def _end(self, answer: AnyAnswer, visit: Visit) -> None:
        usage = answer.usage
        visit.notes |= {
            "prompt_tokens": usage.prompt_tokens,
            "image_tokens": usage.prompt_tokens_details.image_tokens,
            "completion_tokens": usage.completion_tokens,
            **answer.notes,
        }
        if answer.close() and "error" not in visit.notes:
            visit.status = GONE
