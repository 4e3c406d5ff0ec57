"""Our tools as an MCP server, over stdio or streamable HTTP.

It keeps nothing of a conversation: pictures are artifacts, named by ids in every call. A picture travels to the
server once, and back as a thumbnail with a link to the whole. What a tool refuses is a result with `isError`, whose
text says what would work, so that a model can try again.
"""

import base64
import hmac
import io
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from starlette.responses import JSONResponse

from llavakit.text.calls import Call, Card, Result, ToolError
from llavakit.tools.artifacts import Artifact, Artifacts, open_image
from llavakit.tools.desk import Desk
from llavakit.tools.registry import Registry
from llavakit.version import __version__
from llavakit.vision.boxes import Unit

SCHEME = "artifact://"
THUMBNAIL = 256  # pixels of its longer side
BODY_BYTES = 80 * 2**20
AT_ONCE = 16  # calls that run or wait for a process
INSTRUCTIONS = (
    "Tools that look at pictures. Bring a picture once with put_image (or open_image where there is one) and name "
    "it by its id in other calls. Results name new pictures by ids; read them whole as resources."
)
App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def tool_of(card: Card) -> types.Tool:
    """A card in MCP's words."""
    hints = types.ToolAnnotations(
        read_only_hint=card.read_only, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    return types.Tool(
        name=card.name, description=card.description, input_schema=dict(card.parameters), annotations=hints
    )


class ToolServer:
    """Answers the protocol's requests with a registry and a folder of artifacts."""

    def __init__(
        self, registry: Registry, store: Artifacts, *, unit: Unit = "0-1", seconds: float = 60.0
    ) -> None:
        """`seconds`: the most that one call may take, waiting included."""
        self.registry, self.store, self.unit, self.seconds = registry, store, unit, seconds
        self._limit = anyio.CapacityLimiter(AT_ONCE)
        self.server: Server[Any] = Server(
            "llavakit", version=__version__, instructions=INSTRUCTIONS, on_list_tools=self._list,
            on_call_tool=self._call, on_read_resource=self._read, on_list_resource_templates=self._templates,
        )  # fmt: skip

    async def _list(self, context: Any, params: Any) -> types.ListToolsResult:
        cards = self.registry.cards_for(self.unit, by_id=True)
        return types.ListToolsResult(tools=[tool_of(card) for card in cards])

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        run = partial(self.run, params.name, params.arguments or {})
        return await anyio.to_thread.run_sync(run, limiter=self._limit, abandon_on_cancel=True)

    async def _templates(self, context: Any, params: Any) -> types.ListResourceTemplatesResult:
        one = types.ResourceTemplate(
            name="artifact",
            uri_template=SCHEME + "{id}",
            description="A picture (PNG) or a mask (JSON) by its id.",
        )
        return types.ListResourceTemplatesResult(resource_templates=[one])

    async def _read(self, context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return await anyio.to_thread.run_sync(partial(self.read, str(params.uri)))

    def run(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """One call on a desk of its own."""
        desk = Desk(self.store, unit=self.unit, open=True)
        try:
            call = Call(name, json.dumps(arguments, allow_nan=False))
        except ValueError:
            return _failed("the arguments hold a number that JSON cannot write")
        result = self.registry.call(call, desk, deadline=time.monotonic() + self.seconds)
        return _failed(result.error) if result.error is not None else self._told(result)

    def read(self, uri: str) -> types.ReadResourceResult:
        """The bytes of an artifact."""
        try:
            found = self.store.find(uri.removeprefix(SCHEME))
            data = found.path.read_bytes()
        except (ToolError, OSError) as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        if found.kind == "text":
            text = types.TextResourceContents(uri=uri, mime_type="application/json", text=data.decode())
            return types.ReadResourceResult(contents=[text])
        blob = types.BlobResourceContents(
            uri=uri, mime_type="image/png", blob=base64.b64encode(data).decode()
        )
        return types.ReadResourceResult(contents=[blob])

    def _told(self, result: Result) -> types.CallToolResult:
        made = [self.store.find(name) for name in result.pictures]
        value = dict(result.value)
        if made:
            value["pictures"] = [{"id": one.id, "size": list(one.size or ())} for one in made]
        content: list[Any] = [types.TextContent(text=json.dumps(value, ensure_ascii=False))]
        for one in made:
            content += [_thumbnail(one), _link(one)]
        return types.CallToolResult(content=content, structured_content=value)


def _failed(why: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=why)], is_error=True)


def _thumbnail(artifact: Artifact) -> types.ImageContent:
    image = open_image(artifact)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return types.ImageContent(data=base64.b64encode(data.getvalue()).decode(), mime_type="image/jpeg")


def _link(artifact: Artifact) -> types.ResourceLink:
    return types.ResourceLink(
        uri=SCHEME + artifact.id, name=artifact.id, mime_type="image/png", size=artifact.path.stat().st_size
    )


async def serve_stdio(tools: ToolServer) -> None:
    """Until standard input ends. Nothing but the protocol is written to standard output."""
    async with stdio_server() as (read, write):
        await tools.server.run(read, write, tools.server.create_initialization_options())


def http_app(tools: ToolServer, *, host: str, api_key: str | None) -> App:
    """An ASGI application; with a key, who does not bring it as a bearer token is refused."""
    app = tools.server.streamable_http_app(
        stateless_http=True, json_response=True, host=host, max_request_body_size=BODY_BYTES
    )
    return app if api_key is None else _guarded(app, f"Bearer {api_key}".encode())


def _guarded(app: App, wanted: bytes) -> App:
    async def guard(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            said = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(said, wanted):
                refused = JSONResponse({"error": "a key is needed: Authorization: Bearer KEY"}, 401)
                await refused(scope, receive, send)
                return
        await app(scope, receive, send)

    return guard
