"""The application of `llavakit collect`: a page of static files, and a few routes that need the collection's key.

The key stands behind the # of the printed address, so no log sees it, and the page sends it with every request of
its own. Another page in the same browser does not know it: it can neither vote nor look at a picture.
"""

import asyncio
import hmac
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llavakit.align.collect.session import LONGEST_NAME, Session, Side, Task
from llavakit.core.errors import DataError
from llavakit.data.votes import Vote
from llavakit.text.conversation import Image, Medium, Text
from llavakit.vision.image import load_image
from llavakit.vision.kinds import kind_of

API = "/api/"
PAGE = {"/": "index.html", "/page.js": "page.js", "/view.js": "view.js", "/style.css": "style.css"}
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
SHOWN = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
    "image/avif",
    "image/bmp",
)  # that browsers know
MAX_BODY = 16 * 1024
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Ballot(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(extra="forbid", strict=True)
    annotator: str = Field(max_length=LONGEST_NAME)
    item: str = Field(max_length=64)
    hallucination: Side
    helpfulness: Side | None = None
    seconds: float = Field(allow_inf_nan=False)


class Keyed:
    """What holds for every request: the routes of the API need the key, and all answers have HEADERS."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.wanted = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        if scope["path"].startswith(API) and not hmac.compare_digest(given, self.wanted):
            refusal = _error(
                "open the address that `llavakit collect` printed: the key is missing or another", 401
            )
            await refusal(scope, receive, send_kept)
            return
        await self.app(scope, receive, send_kept)


class Routes:
    """The HTTP face of a session. `annotator` is everybody's name where there is one person only."""

    def __init__(self, session: Session, annotator: str | None) -> None:
        self.session, self.annotator = session, annotator

    async def page(self, request: Request) -> Response:
        """A file of the page."""
        name = PAGE[request.url.path]
        content = files("llavakit.serve.collect").joinpath("page", name).read_bytes()
        return Response(content, media_type=KINDS[Path(name).suffix])

    async def collection(self, request: Request) -> Response:
        """How the collection is run."""
        rules = self.session.rules
        return JSONResponse({"annotator": self.annotator, "always_ask_both": rules.always_ask_both})

    async def task(self, request: Request) -> Response:
        """The next pair of an annotator, or with `before` the one that he judged before that."""
        annotator = request.query_params.get("annotator", "")
        if "before" in request.query_params:
            found = self.session.task_before(annotator, request.query_params["before"] or None)
        else:
            found = self.session.task(annotator)
        if found is None:
            return JSONResponse({"item": None, "done": len(self.session.votes.by.get(annotator, []))})
        return JSONResponse(_shown(found))

    async def vote(self, request: Request) -> Response:
        """Take a vote; it is on the disk when the answer comes."""
        ballot = await _read(request)
        vote = self.session.vote(
            ballot.annotator, ballot.item, ballot.hallucination, ballot.helpfulness, ballot.seconds
        )
        return JSONResponse({"time": vote.time})

    async def media(self, request: Request) -> Response:
        """A picture or video of a pair, by its number."""
        item = self.session.items.get(request.path_params["item"])
        number = request.path_params["number"]
        if item is None or number >= len(item.media):
            return _error("no such picture", 404)
        kind, data = await asyncio.to_thread(_content, item.media[number])
        return Response(data, media_type=kind)


def create_collection(session: Session, key: str, annotator: str | None = None) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Keyed, key=key)
    app.add_exception_handler(DataError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)
    routes = Routes(session, annotator)
    for path in PAGE:
        app.add_api_route(path, routes.page, methods=["GET"])
    app.add_api_route("/api/collection", routes.collection, methods=["GET"])
    app.add_api_route("/api/task", routes.task, methods=["GET"])
    app.add_api_route("/api/vote", routes.vote, methods=["POST"])
    app.add_api_route("/api/media/{item}/{number:int}", routes.media, methods=["GET"])
    return app


def _shown(task: Task) -> dict[str, Any]:
    """What the page draws. Nothing tells a gold item, or which answer the file prefers."""
    numbers = iter(range(len(task.item.media)))
    messages = [
        {
            "role": message.role,
            "parts": [
                {"text": part.text}
                if isinstance(part, Text)
                else {"image" if isinstance(part, Image) else "video": next(numbers)}
                for part in message.parts
            ],
        }
        for message in task.item.prompt.messages
    ]
    return {
        "item": task.item.name,
        "messages": messages,
        "answers": list(task.answers),
        "done": task.done,
        "open": task.open,
        "earlier": None if task.earlier is None else _earlier(task.earlier),
    }


def _earlier(vote: Vote) -> dict[str, Any]:
    """What was said before, by where the answers stand."""
    sides = {vote.left: "left", 3 - vote.left: "right"}
    chosen = {"hallucination": vote.hallucination, "helpfulness": vote.helpfulness}
    return {
        name: sides.get(value, value) if isinstance(value, int) else value for name, value in chosen.items()
    }


def _content(medium: Medium) -> tuple[str, bytes]:
    """(media type, bytes); a picture that browsers do not know becomes a PNG."""
    assert isinstance(medium.source, Path | bytes)
    try:
        data = medium.source if isinstance(medium.source, bytes) else medium.source.read_bytes()
    except OSError as error:
        raise DataError(f"a picture or video cannot be read: {error.strerror}") from None
    if not isinstance(medium, Image):
        return kind_of(data, "video") or "application/octet-stream", data
    kind = kind_of(data, "image")
    if kind in SHOWN:
        return str(kind), data
    file = BytesIO()
    load_image(data).save(file, "PNG")
    return "image/png", file.getvalue()


async def _read(request: Request) -> Ballot:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    try:
        return Ballot.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None


def _error(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, DataError)
    return _error(error.what, 422)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(str(error.detail), error.status_code)
