"""The routes of a picture: it comes, is looked at in tiles, changed by commands, and given back."""

import asyncio
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import PIL.Image
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llavakit.studio.commands import read_command
from llavakit.studio.http.exports import EXPORTS
from llavakit.studio.http.requests import find_room, read_body, read_json
from llavakit.studio.http.rooms import Room, Rooms
from llavakit.studio.http.talk import Talk
from llavakit.studio.pyramid import small
from llavakit.studio.session import Conflict, Gone
from llavakit.studio.tiles import SIDE

T = TypeVar("T")
Place = tuple[int, int, int, int]
PICTURE = "/api/{name}"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
QUALITY = 92  # of tiles that are looked at; what is exported comes from the pixels themselves
DEEPEST = 12  # a tile that was halved so often shows a million pixels across


class Asked(BaseModel):
    """What the page sends to have something done."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str = Field(min_length=8, max_length=64)
    base_rev: int = Field(ge=0)
    gesture: str = Field(default="", max_length=64)
    command: dict[str, Any]


class Wanted(BaseModel):
    """Something that a generative engine shall make when it is its turn."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str = Field(min_length=8, max_length=64)
    command: dict[str, Any]


class Routes:
    """The HTTP face of the pictures."""

    def __init__(self, rooms: Rooms, talk: Talk) -> None:
        self.rooms, self.talk = rooms, talk

    def add_to(self, app: FastAPI) -> None:
        """All of them."""
        for path, route, method in (
            ("/api/about", self.about, "GET"),
            ("/api/pictures", self.open, "POST"),
            (PICTURE, self.state, "GET"),
            (PICTURE, self.remove, "DELETE"),
            (f"{PICTURE}/rev", self.rev, "GET"),
            (f"{PICTURE}/commands", self.command, "POST"),
            (f"{PICTURE}/jobs", self.make, "POST"),
            (f"{PICTURE}/jobs/{{id}}", self.cancel, "DELETE"),
            (f"{PICTURE}/tile/{{rev:int}}/{{z:int}}/{{x:int}}/{{y:int}}.webp", self.tile, "GET"),
            (f"{PICTURE}/mask/{{rev:int}}/{{z:int}}/{{x:int}}/{{y:int}}.png", self.mask, "GET"),
            (f"{PICTURE}/thumbnail/{{rev:int}}.webp", self.thumbnail, "GET"),
            (f"{PICTURE}/variant/{{rev:int}}/{{number:int}}.webp", self.variant, "GET"),
            (f"{PICTURE}/export/{{kind}}", self.export, "GET"),
        ):
            app.add_api_route(path, route, methods=[method])

    async def about(self, request: Request) -> Response:
        """What this server offers, before there is a picture."""
        settings = self.rooms.settings
        return JSONResponse(
            {
                "max_upload_bytes": settings.max_upload_bytes,
                "keep_hours": settings.keep_hours,
                "chat": self.talk.name,
                "engines": self.rooms.bench.cards(),
                "exports": [
                    {"kind": kind, "title": each.title, "words": each.words} for kind, each in EXPORTS.items()
                ],
            }
        )

    async def open(self, request: Request) -> Response:
        """A picture (or a session that was exported) comes in the body; its name is the answer."""
        settings = self.rooms.settings
        if (
            request.headers.get("content-type", "") != "application/octet-stream"
        ):  # no page of another server can
            raise HTTPException(415, "send Content-Type: application/octet-stream")
        try:
            async with asyncio.timeout(settings.upload_seconds):
                data = await read_body(request, settings.max_upload_bytes)
        except TimeoutError:
            raise HTTPException(408, "the picture did not arrive in time") from None
        room = await asyncio.to_thread(self.rooms.create, data, request.query_params.get("title", ""))
        return JSONResponse({"name": room.name}, 201)

    async def state(self, request: Request) -> Response:
        """Everything but pixels."""
        room = await self.room(request)
        return JSONResponse(await asyncio.to_thread(room.describe))

    async def remove(self, request: Request) -> Response:
        """The picture and its files go."""
        room = await self.room(request)
        await asyncio.to_thread(self.rooms.remove, room.name)
        return Response(status_code=204)

    async def rev(self, request: Request) -> Response:
        """Whether there is news."""
        room = await self.room(request)
        return JSONResponse({"rev": room.session.rev, **room.news()})

    async def command(self, request: Request) -> Response:
        """Something is done; it is on the disk when the answer comes."""
        room = await self.room(request)
        asked = await read_json(request, Asked, self.rooms.settings.max_command_bytes)
        try:
            answer = await asyncio.to_thread(
                room.session.apply, asked.command, id=asked.id, base_rev=asked.base_rev, gesture=asked.gesture
            )
        except Conflict as conflict:
            state = await asyncio.to_thread(room.describe)
            return JSONResponse({"rev": conflict.rev, "state": state}, 409)
        return JSONResponse(
            {
                "rev": answer.rev,
                "damage": answer.damage,
                "seconds": answer.seconds,
                "notes": list(answer.notes),
                "state": await asyncio.to_thread(room.describe),
            }
        )

    async def make(self, request: Request) -> Response:
        """Something is to be made; it comes when it is done, unless somebody takes it back."""
        room = await self.room(request)
        asked = await read_json(request, Wanted, self.rooms.settings.max_command_bytes)
        room.line.add(room.session, asked.id, read_command(asked.command))
        return JSONResponse(room.news(), 202)

    async def cancel(self, request: Request) -> Response:
        """It is not wanted any more."""
        room = await self.room(request)
        room.line.cancel(room.session, request.path_params["id"])
        return JSONResponse(room.news())

    async def tile(self, request: Request) -> Response:
        """A square of what is visible, or of one layer."""
        room, at = await self.room(request), place_of(request)
        layer = request.query_params.get("layer")
        if layer is not None and not layer.isdecimal():
            raise HTTPException(404, "no such layer")

        def work() -> bytes:
            scene = room.session.scene_at(at[0])
            check_inside(at, scene.size if layer is None else scene.layer(int(layer)).raster.size)
            pixels = room.session.tile(*at, layer=None if layer is None else int(layer))
            return encode(pixels, "WEBP", quality=QUALITY, method=0)

        return Response(await self.looked_up(work), media_type="image/webp", headers=FOREVER)

    async def mask(self, request: Request) -> Response:
        """A square of the selection or of one of its candidates: white, its alpha the mask."""
        room, at = await self.room(request), place_of(request)
        candidate = request.query_params.get("candidate")
        if candidate is not None and not candidate.isdecimal():
            raise HTTPException(404, "no such candidate")

        def work() -> bytes:
            check_inside(at, room.session.scene_at(at[0]).size)
            mask = room.session.mask_tile(*at, candidate=None if candidate is None else int(candidate))
            return encode(np.dstack((np.full_like(mask, 255), mask)), "PNG", compress_level=1)

        return Response(await self.looked_up(work), media_type="image/png", headers=FOREVER)

    async def thumbnail(self, request: Request) -> Response:
        """All of a revision in a few hundred pixels."""
        room, rev = await self.room(request), request.path_params["rev"]

        def work() -> bytes:
            z = halvings(room.session.scene.size)
            return encode(room.session.tile(rev, z, 0, 0), "WEBP", quality=80, method=0)

        return Response(await self.looked_up(work), media_type="image/webp", headers=FOREVER)

    async def variant(self, request: Request) -> Response:
        """One of the results that may be chosen from, in a few hundred pixels."""
        room, rev, number = (
            await self.room(request),
            request.path_params["rev"],
            request.path_params["number"],
        )

        def work() -> bytes:
            variants = room.session.scene_at(rev).variants
            if number >= len(variants):
                raise Gone(f"revision {rev} has {len(variants)} variants")
            raster = variants[number].raster
            return encode(small(raster, halvings(raster.size)).read(), "WEBP", quality=85, method=0)

        return Response(await self.looked_up(work), media_type="image/webp", headers=FOREVER)

    async def export(self, request: Request) -> Response:
        """The picture as a file."""
        room, kind = await self.room(request), EXPORTS.get(request.path_params["kind"])
        if kind is None:
            raise HTTPException(404, f"files are {', '.join(EXPORTS)}")
        data = await asyncio.to_thread(kind.make, room)
        name = quote(f"{room.title.rpartition('.')[0] or room.title}{kind.ending}", safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(data, media_type=kind.media_type, headers=headers)

    async def room(self, request: Request) -> Room:
        """The picture a request is about."""
        return await find_room(self.rooms, request)

    async def looked_up(self, work: Callable[[], T]) -> T:
        """What a thread finds in a revision."""
        try:
            return await asyncio.to_thread(work)
        except Gone:
            raise HTTPException(410, "this revision is no longer kept") from None


def place_of(request: Request) -> Place:
    """Where a tile lies: its revision, halvings, column and row."""
    rev, z, x, y = (request.path_params[each] for each in ("rev", "z", "x", "y"))
    if z > DEEPEST:
        raise HTTPException(404, "no such tile")
    return rev, z, x, y


def check_inside(at: Place, size: tuple[int, int]) -> None:
    """404 for a tile that shows nothing of a picture of `size` (width, height)."""
    _, z, x, y = at
    if x * (SIDE << z) >= size[0] or y * (SIDE << z) >= size[1]:
        raise HTTPException(404, "no such tile")


def halvings(size: tuple[int, int]) -> int:
    """How often a picture is halved until one tile holds it."""
    return max(0, (max(size) - 1).bit_length() - (SIDE - 1).bit_length())


def encode(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """uint8[h, w, 2 or 4] as a file; without alpha where nothing is transparent."""
    image = PIL.Image.fromarray(pixels, {2: "LA", 4: "RGBA"}[pixels.shape[2]])
    if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        image = image.convert("RGB")
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
