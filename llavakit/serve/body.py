"""Reading a request: its body within bounds, and whether anybody still waits for the answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from llavakit.serve.budget import MemoryShare
from llavakit.serve.errors import ApiError, ClientGone
from llavakit.serve.settings import ServeConfig

T = TypeVar("T")
PARSED = 2  # bytes of memory for one of a body that is read: itself, and the strings made of it


async def read_json(request: Request, settings: ServeConfig, share: MemoryShare) -> bytearray:
    """The body's bytes, said to be JSON. Stops where they get too many or too slow; ClientGone if broken off.

    What they take is held as "body" of `share`.
    """
    limit = settings.max_body_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps a web page from posting to a server on the reader's own machine unasked.
        raise ApiError("send Content-Type: application/json", status=415, code="media_type")
    too_large = ApiError(f"the body is larger than {limit} bytes", status=413, code="too_large")
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > limit:
        raise too_large
    body, stream = bytearray(), request.stream()
    # Time enough to begin with, and then as much as a slow line needs: who sends a byte a minute is not waited for.
    deadline = asyncio.get_running_loop().time() + settings.upload_seconds
    try:
        while True:
            async with asyncio.timeout_at(deadline + len(body) / settings.min_upload_rate):
                chunk = await anext(stream, None)
            if chunk is None:
                return body
            body += chunk
            if len(body) > limit:
                raise too_large
            share.hold("body", PARSED * len(body))
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        raise ApiError(
            f"the body came more slowly than {settings.min_upload_rate} bytes/s", status=408, code="timeout"
        ) from None


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
