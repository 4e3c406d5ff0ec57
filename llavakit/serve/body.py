"""Reading a request: its body within bounds, and whether anybody still waits for the answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from llavakit.serve.errors import ApiError

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def read_json(request: Request, limit: int) -> bytes:
    """The body's bytes, said to be JSON. Stops reading where they get too many; ClientGone if broken off."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps a web page from posting to a server on the reader's own machine unasked.
        raise ApiError("send Content-Type: application/json", status=415, code="media_type")
    too_large = ApiError(f"the body is larger than {limit} bytes", status=413, code="too_large")
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; where the client leaves first, the work is cancelled: ClientGone.

    The body must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
