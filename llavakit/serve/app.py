"""The application: routes, errors in OpenAI's shape, and the description of both (openapi.json)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llavakit.serve.answers import ChatCompletion, ErrorBody, Health, ModelEntry, ModelList
from llavakit.serve.completions import Completion, CompletionRequest
from llavakit.serve.embeddings import EmbeddingList, EmbeddingRequest
from llavakit.serve.errors import ApiError
from llavakit.serve.gate import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Gate
from llavakit.serve.metrics import Metrics
from llavakit.serve.places import Places
from llavakit.serve.pooling import PoolingList, PoolingRequest
from llavakit.serve.reload import add_reload
from llavakit.serve.response_writer import Response as ResponseObject
from llavakit.serve.responses import ResponsesRequest
from llavakit.serve.routes import Routes
from llavakit.serve.schema import ChatRequest
from llavakit.serve.service import Service
from llavakit.version import __version__
from llavakit.wire import POOLING

ERRORS = {
    400: "What is wrong with the request, and where.",
    401: "No valid API key.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "Too many requests at once, or too large ones; Retry-After says when to come back.",
    500: "A bug of this server.",
    504: "Not answered in time.",
}


REQUESTS = (ChatRequest, ResponsesRequest, CompletionRequest, EmbeddingRequest, PoolingRequest)


class Application(FastAPI):
    """FastAPI that describes the requests whose bodies the routes read by themselves."""

    model_name: str

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=self.version, routes=self.routes)
            _, schemas = models_json_schema(
                [(kind, "validation") for kind in REQUESTS], ref_template="#/components/schemas/{model}"
            )
            for kind in REQUESTS:
                schemas["$defs"][kind.__name__]["properties"]["model"]["enum"] = [self.model_name]
            document["components"]["schemas"] |= schemas["$defs"]
            self.openapi_schema = document
        return self.openapi_schema


def create_app(service: Service) -> FastAPI:
    """The ASGI application. Its end closes the service, after the answers that are running."""
    metrics = Metrics(service.engine.stats)
    routes = Routes(service, metrics, Places(service.settings.max_requests, metrics))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    # Without FastAPI's own pages, which load scripts from elsewhere, and its redirects of paths that end in a
    # slash, which send clients to whatever host their own request named.
    app = Application(
        title="llavakit",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.model_name = service.settings.model_name
    app.add_middleware(Gate, settings=service.settings, metrics=metrics)
    if service.settings.allow_origins:  # around the gate: a browser asks first, and without a key
        app.add_middleware(
            CORSMiddleware, allow_origins=service.settings.allow_origins, allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_bug)
    for path, route, kind, model in (
        (CHAT, routes.chat, ChatRequest, ChatCompletion),
        (RESPONSES, routes.responses, ResponsesRequest, ResponseObject),
        (COMPLETIONS, routes.completions, CompletionRequest, Completion),
        (EMBEDDINGS, routes.embeddings, EmbeddingRequest, EmbeddingList),
        (POOLING, routes.pooling, PoolingRequest, PoolingList),
    ):
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            response_model=model,
            responses=_errors(400, 401, 404, 408, 413, 415, 429, 500, 504),
            openapi_extra={"requestBody": {"content": content, "required": True}},
        )
    _add_pages(app, routes)
    if service.settings.reload_root is not None:
        add_reload(app, service, service.settings.reload_root)
    return app


def _add_pages(app: FastAPI, routes: Routes) -> None:
    """What is only looked at: by GET, or by HEAD for the headers alone."""
    for described, method in ((True, "GET"), (False, "HEAD")):
        add = partial(app.add_api_route, methods=[method], include_in_schema=described)
        add("/v1/models", routes.models, response_model=ModelList, responses=_errors(401))
        add("/v1/models/{name:path}", routes.model, response_model=ModelEntry, responses=_errors(401, 404))
        add("/health", routes.health, response_model=Health)
        add("/metrics", routes.metrics_page, response_class=Response)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": ERRORS[status]} for status in statuses}


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.state.visit.notes["error"] = error.code or "invalid_request"
    return JSONResponse(error.body(), error.status, error.headers)


async def _tell_http(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    plain = ApiError(str(error.detail), status=error.status_code, code="http", headers=error.headers)
    return await _tell(request, plain)


async def _tell_bug(request: Request, error: Exception) -> Response:
    """The log has the traceback; the client learns that it was not its fault."""
    return JSONResponse(ApiError("a bug of this server", status=500, code="bug").body(), 500)
