"""The five routes. Each is a few lines; the work is the service's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llavakit.serve.answers import Health, ModelEntry, ModelList, Writer
from llavakit.serve.body import read_json, unless_gone
from llavakit.serve.budget import MemoryShare
from llavakit.serve.choice import Delta
from llavakit.serve.conversation import texts
from llavakit.serve.errors import ApiError, ClientGone
from llavakit.serve.gate import GONE, Visit
from llavakit.serve.metrics import CONTENT_TYPE, Metrics
from llavakit.serve.places import Places
from llavakit.serve.service import Answer, Service


class Routes:
    """The HTTP face of a service."""

    def __init__(self, service: Service, metrics: Metrics, places: Places) -> None:
        self.service, self.metrics, self.places, self.settings = service, metrics, places, service.settings

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, in one piece or as server-sent events."""
        visit: Visit = request.state.visit
        try:
            self.places.check()
            share = visit.exits.enter_context(closing(MemoryShare(self.service.memory)))
            # The body is nobody's but `_start`'s: it is let go when it is parsed, however long the answer takes.
            answer = await unless_gone(
                request, self._start(await read_json(request, self.settings, share), visit, share)
            )
            writer = Writer(visit.number, self.settings.model_name)
            if answer.streamed:
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
        return ModelEntry(
            id=self.settings.model_name, created=self.service.began, max_model_len=self.service.engine.context
        )

    async def _start(self, body: bytes, visit: Visit, share: MemoryShare) -> Answer:
        visit.exits.enter_context(self.places.take())
        asked = await self.service.parse(body)
        size = len(body)
        del body
        share.hold("body", size)  # the strings that were made of it
        visit.notes["stream"] = bool(asked.stream)
        if self.settings.log_content:
            visit.notes["question"] = list(texts(asked))
        answer = await self.service.start(asked, share, visit.owner)
        share.hold("body", 0)
        visit.exits.callback(self._end, answer, visit)
        return answer

    async def _whole(self, answer: Answer, writer: Writer, visit: Visit) -> Response:
        async for delta in answer:
            self._heed(delta, visit)
            writer.gather(delta)
        # Beside the loop: with log-probabilities it may be a hundred megabytes.
        body = await asyncio.to_thread(writer.whole, answer.num_choices, answer.usage)
        return Response(body, media_type="application/json")

    async def _events(self, answer: Answer, writer: Writer, visit: Visit) -> AsyncIterator[bytes]:
        """The answer as server-sent events; an error on the way is the last of them."""
        extra = {"usage": None} if answer.with_usage else {}
        try:
            for choice in range(answer.num_choices):
                yield _event(writer.opening(choice) | extra)
            async for delta in answer:
                self._heed(delta, visit)
                yield _event(writer.chunk(delta) | extra)
            if answer.with_usage:
                yield _event(writer.closing(answer.usage))
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            visit.notes["error"] = error.code
            yield _event(error.body())

    def _heed(self, delta: Delta, visit: Visit) -> None:
        if (delta.text or delta.call) and "first_text_seconds" not in visit.notes:
            visit.notes["first_text_seconds"] = round(visit.seconds, 4)
            self.metrics.first_token.observe(visit.seconds)
        if delta.finish is not None:
            visit.notes.setdefault("finish", []).append(delta.finish)
        if self.settings.log_content:
            visit.notes["answer"] = visit.notes.get("answer", "") + delta.text

    def _end(self, answer: Answer, visit: Visit) -> None:
        usage = answer.usage
        visit.notes |= {
            "prompt_tokens": usage.prompt_tokens,
            "image_tokens": usage.prompt_tokens_details.image_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        if answer.close() and "error" not in visit.notes:
            visit.status = GONE


def _event(value: dict[str, object]) -> bytes:
    # In ASCII: some clients end a line at letters such as U+2028, where server-sent events do not.
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
