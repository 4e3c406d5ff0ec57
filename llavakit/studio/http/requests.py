"""What comes in: bodies within limits, and the picture that a request is about."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from llavakit.studio.http.rooms import Room, Rooms

M = TypeVar("M", bound=BaseModel)


async def find_room(rooms: Rooms, request: Request) -> Room:
    """The picture a request is about; one that does not exist looks like one that is somebody else's."""
    room = await asyncio.to_thread(rooms.get, request.path_params["name"])
    if room is None:
        raise HTTPException(404, "there is no such picture here; it may have been removed")
    return room


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; 413 as soon as it is larger."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"larger than {limit / 2**20:.4g} MiB")
    return bytes(body)


async def read_json(request: Request, kind: type[M], limit: int) -> M:
    """A body of JSON that is a `kind`. Only pages of this server can send one: no form of another can."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send Content-Type: application/json")
    try:
        return kind.model_validate(json.loads(await read_body(request, limit)))
    except ValidationError as error:
        first = error.errors()[0]
        raise HTTPException(
            422, f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"
        ) from None
    except (ValueError, RecursionError):
        raise HTTPException(422, "the body is not JSON") from None
