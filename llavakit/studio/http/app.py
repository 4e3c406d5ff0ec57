"""The application: the page's files, the routes, and what holds for every answer."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llavakit.core.errors import UserError
from llavakit.studio.http.rooms import Rooms
from llavakit.studio.http.routes import Routes
from llavakit.studio.http.talk import Talk, TalkRoutes

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
IMPORT_MAP = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)


def page_files() -> dict[str, tuple[str, bytes]]:
    """Every file of the page by its path: media type and content. Nothing else of the disk is ever served."""
    root = files("llavakit.studio").joinpath("page")
    found = {}
    for folder, names in (("", root), ("vendor/", root.joinpath("vendor"))):
        for file in names.iterdir():
            kind = KINDS.get(PurePosixPath(file.name).suffix)
            if kind is not None:
                found[f"/{folder}{file.name}"] = kind, file.read_bytes()
    found["/"] = found.pop("/index.html")
    return found


def policy(index: bytes, framed_by: Sequence[str] = ()) -> str:
    """What the page may do: nothing but its own files, and the one script that stands in it, by its hash.

    `framed_by`: the pages that may show it inside of them.
    """
    ancestors = " ".join(framed_by) or "'none'"
    maps = IMPORT_MAP.findall(index)
    hashes = "".join(f" 'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in maps)
    return (
        f"default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {ancestors}"
    )


class Guarded:
    """Headers of every answer; what an answer says of caching stays."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self.app = app
        self.headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_guarded if scope["type"] == "http" else send)


def create_studio(rooms: Rooms, talk: Talk) -> FastAPI:
    """The ASGI application. Its end closes the chat and the pictures."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(talk.close)
        rooms.close()

    page = page_files()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    app.add_middleware(Guarded, policy=policy(page["/"][1], rooms.settings.framed_by))
    app.add_exception_handler(UserError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)

    async def file(request: Request) -> Response:
        kind, content = page[request.url.path]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    for path in page:
        app.add_api_route(path, file, methods=["GET"])
    Routes(rooms, talk).add_to(app)
    TalkRoutes(rooms, talk).add_to(app)
    return app


async def _tell(request: Request, error: Exception) -> Response:
    """A mistake of the person who asked."""
    return JSONResponse({"error": str(error)}, 422)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code)
