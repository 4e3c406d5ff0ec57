"""The chat about a picture: the model sees it as it is now, answers in pieces, points, and proposes edits."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from llavakit.agent.opening import shown_as
from llavakit.core.errors import UserError
from llavakit.engine.responder import Responder
from llavakit.engine.sampler import Sampling
from llavakit.studio.conversing import conversation_about, sight_of
from llavakit.studio.http.requests import find_room, read_json
from llavakit.studio.http.rooms import Room, Rooms
from llavakit.studio.http.settings import StudioConfig
from llavakit.studio.proposals import instructions, read

Event_ = dict[str, Any]
MAX_QUESTION_BYTES = 64 * 1024
WAITING = 32  # questions of all pictures together; then the next is refused


class Question(BaseModel):
    """What a person says."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: str = Field(min_length=1, max_length=4000)


class Talk:
    """One model for all pictures, which answers one question after the other."""

    def __init__(self, responder: Responder | None, name: str, settings: StudioConfig) -> None:
        self.responder, self.name = responder, name if responder is not None else ""
        self.sampling = Sampling(max_tokens=settings.max_tokens)
        self.unit, self.image = settings.boxes, None if responder is None else shown_as(responder)[0]
        self.system = instructions(self.unit) if settings.may_propose else ""
        self.pictures = settings.pictures_in_talk
        self.pool = ThreadPoolExecutor(WAITING, thread_name_prefix="studio-talk")
        self.waiting = 0
        self._turn = Lock()
        self._stops: dict[str, Event] = {}

    def stop(self, name: str) -> None:
        """End the answer about a picture; what was said so far stays."""
        if name in self._stops:
            self._stops[name].set()

    def close(self) -> None:
        """End what is being said, and wait until it is kept."""
        for stop in list(self._stops.values()):
            stop.set()
        self.pool.shutdown()

    def answer(self, room: Room, text: str) -> Iterator[Event_]:
        """Ask about a picture: pieces of text as they come, and then the whole turn. Both are in its journal."""
        assert self.responder is not None
        if room.name in self._stops:
            raise UserError("an answer about this picture is under way")
        stop = self._stops[room.name] = Event()
        said, trouble = "", ""
        try:
            room.say("user", text)
            with self._turn:
                talk = conversation_about(room.session, pictures=self.pictures, system_text=self.system)
                for piece in self.responder.stream(talk, sampling=self.sampling):
                    said += piece
                    yield {"text": piece}
                    if stop.is_set():
                        break
        except UserError as error:
            trouble = str(error)
        finally:
            del self._stops[room.name]
        reading = read(said, sight_of(room.session.scene.size, self.unit, self.image))
        if reading.text or reading.commands:
            room.say("assistant", reading.text, boxes=reading.boxes, proposal=reading.commands)
        yield {"done": True, "troubles": [*reading.troubles, *([trouble] if trouble else [])]}


class TalkRoutes:
    """The HTTP face of the chat."""

    def __init__(self, rooms: Rooms, talk: Talk) -> None:
        self.rooms, self.talk = rooms, talk

    def add_to(self, app: FastAPI) -> None:
        """All of them."""
        app.add_api_route("/api/{name}/chat", self.ask, methods=["POST"])
        app.add_api_route("/api/{name}/chat/stop", self.stop, methods=["POST"])

    async def ask(self, request: Request) -> Response:
        """A question; its answer comes in events. It is finished and kept even where nobody listens any more."""
        room = await find_room(self.rooms, request)
        question = await read_json(request, Question, MAX_QUESTION_BYTES)
        if self.talk.responder is None:
            raise HTTPException(
                422, "there is no model to talk to: start with llavakit studio --model DIR, or --remote URL"
            )
        if self.talk.waiting >= WAITING:
            raise HTTPException(429, "the model has too many questions to answer; ask again later")
        return StreamingResponse(self._events(room, question.text), media_type="text/event-stream")

    async def stop(self, request: Request) -> Response:
        """What is being said is enough."""
        room = await find_room(self.rooms, request)
        self.talk.stop(room.name)
        return JSONResponse({})

    async def _events(self, room: Room, text: str) -> AsyncIterator[str]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event_ | None]()

        def work() -> None:
            try:
                for event in self.talk.answer(room, text):
                    loop.call_soon_threadsafe(events.put_nowait, event)
            except UserError as error:
                loop.call_soon_threadsafe(events.put_nowait, {"done": True, "troubles": [str(error)]})
            finally:
                self.talk.waiting -= 1
                loop.call_soon_threadsafe(events.put_nowait, None)

        self.talk.waiting += 1
        answering = self.talk.pool.submit(work)
        while (event := await events.get()) is not None:
            yield f"data: {json.dumps(event)}\n\n"
        await asyncio.wrap_future(answering)  # a bug of ours is logged with its traceback
