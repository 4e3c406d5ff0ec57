"""What holds for every request, whatever its route: a number, a key, a place, an end, a line in the log."""

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from starlette.responses import JSONResponse

from llavakit.serve.errors import ApiError
from llavakit.serve.logs import log
from llavakit.serve.metrics import Metrics
from llavakit.serve.settings import ServeConfig
from llavakit.wire import POOLING

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CHAT = "/v1/chat/completions"
RESPONSES, COMPLETIONS, EMBEDDINGS = "/v1/responses", "/v1/completions", "/v1/embeddings"
ROUTES = (
    CHAT,
    RESPONSES,
    COMPLETIONS,
    EMBEDDINGS,
    POOLING,
    "/v1/models",
    "/health",
    "/metrics",
)  # by name in the metrics; all other paths are one
OPEN = ("/health", "/openapi.json")  # all that needs no key
GRACE = 10  # seconds over its limit after which a request is cut off: its client sends or reads nothing
GONE = 499  # nginx's number: nobody was there to read an answer


@dataclass
class Visit:
    """One request on its way: what the log will say of it (the route adds `notes`), and what to undo in the end."""

    number: str = field(default_factory=lambda: secrets.token_hex(12))
    began: float = field(default_factory=time.perf_counter)
    status: int | None = None  # None until the answer begins
    notes: dict[str, Any] = field(default_factory=dict)
    exits: ExitStack = field(default_factory=ExitStack)
    owner: bytes = b""  # made of the API key: what is remembered of one's requests is for the same key only

    @property
    def seconds(self) -> float:
        """Since it came in."""
        return time.perf_counter() - self.began


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, *, settings: ServeConfig, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._owners = [blake2b(key, digest_size=16).digest() for key in self._keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = scope.setdefault("state", {})["visit"] = Visit()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", visit.number.encode())]
            await send(message)

        try:
            await self._pass(scope, receive, noting)
        except ApiError as error:
            visit.notes["error"] = error.code
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, noting)
        finally:
            visit.exits.close()
            self._note(scope, visit)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keys:
            if scope["path"] not in OPEN:
                scope["state"]["visit"].owner = self._owner(scope)
        else:
            self._check_host(scope)
        try:
            async with asyncio.timeout(self.settings.request_seconds + GRACE):
                await self.app(scope, receive, send)
        except TimeoutError:
            visit: Visit = scope["state"]["visit"]
            visit.notes["error"] = "timeout"
            if visit.status is None:
                raise ApiError("the request did not arrive in time", status=408, code="timeout") from None

    def _check_host(self, scope: Scope) -> None:
        """On this machine's own addresses only its own names are answered.

        A web page can give its name this address (DNS rebinding); then what it asks looks like its own server's to
        the browser of whoever reads it, but not to us.
        """
        if not _is_loopback((scope.get("server") or ("",))[0]):
            return
        for value in (value for name, value in scope["headers"] if name == b"host"):
            name = _host_name(value)
            if name not in ("localhost", *self.settings.host_names) and not _is_loopback(name):
                raise ApiError(
                    "this server is for this machine: call it localhost (or set host_names, or an API key)",
                    status=403, code="host",
                )  # fmt: skip

    def _owner(self, scope: Scope) -> bytes:
        """Of the key that was sent. Every key is compared, each in a time that tells nothing of it."""
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = sent.partition(b" ")
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        if kind.lower() != b"bearer" or not any(matches):
            raise ApiError(
                "a valid API key is needed: Authorization: Bearer KEY",
                status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return self._owners[matches.index(True)]

    def _note(self, scope: Scope, visit: Visit) -> None:
        route = scope["path"] if scope["path"] in ROUTES else "other"
        status = 500 if visit.status is None else visit.status
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(visit.seconds)
        log(
            "request", id=visit.number, method=scope["method"], route=route, status=status,
            seconds=round(visit.seconds, 4), **visit.notes,
        )  # fmt: skip


def _host_name(value: bytes) -> str:
    """The name or number in a Host header, without the port."""
    text = value.decode("latin-1").strip().lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]


def _is_loopback(name: str) -> bool:
    """Whether it is the number of an address that only this machine reaches."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
