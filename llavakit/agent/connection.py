"""One outside server and the session with it, in the event loop's thread."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from llavakit.agent.liveness import Notices, follow, watch
from llavakit.agent.server_config import ServerConfig
from llavakit.core.errors import printable
from llavakit.engine.fault import Boundary
from llavakit.text.calls import ToolError, ToolUnavailable

MOST_TOOLS, MOST_PAGES = 200, 20
LONGEST = 2000  # letters of a description
RESTARTS = 3  # of a server that ended


@dataclass(frozen=True)
class Offer:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: dict[str, Any]
    digest: str  # of all that the server said


class Connection:
    """A server that is started, asked, and started again where it ended."""

    def __init__(self, name: str, config: ServerConfig, log: Path | None) -> None:
        self.name, self._config, self._log = name, config, log
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._scope: Any = None
        self._gone, self._ending = asyncio.Event(), False
        self._restarts = RESTARTS
        self._starting = asyncio.Lock()
        self._offers: dict[str, Offer] = {}
        self._why = "ended"

    async def start(self) -> list[Offer]:
        """Begin the session; what the server offers. ToolUnavailable where it does not begin in time."""
        ready: asyncio.Future[list[Offer]] = asyncio.get_running_loop().create_future()
        self._gone, self._ending, self._why = asyncio.Event(), False, "ended"
        self._task = asyncio.create_task(self._live(ready))
        done, _ = await asyncio.wait({ready}, timeout=self._config.start_seconds)
        if not done:
            ready.cancel()
            self._end()
            raise ToolUnavailable(f"did not start within {self._config.start_seconds:g} s")
        offers = ready.result()
        self._offers = {offer.name: offer for offer in offers}
        return offers

    async def stop(self) -> None:
        """End the session, and the process if it is ours."""
        self._end()
        if self._task is not None:
            await asyncio.wait({self._task})

    def _end(self) -> None:
        """Begin to end; the task does the rest."""
        self._ending = True
        if self._scope is not None:
            self._scope.cancel()

    async def call(self, tool: Offer, arguments: dict[str, Any], *, seconds: float) -> Any:
        """Ask, by a deadline; a server that dies meanwhile is known at once, not at the deadline."""
        await self._revive()
        if self._offers.get(tool.name) != tool:
            raise ToolError(f"server {self.name} has changed, and its {tool.name} is not what it was")
        asked = asyncio.ensure_future(
            self._client.call_tool(tool.name, arguments, read_timeout_seconds=seconds)
        )
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({asked, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                if gone.done():
                    raise self._lost()
                raise ToolUnavailable(f"server {self.name} did not answer within {seconds:.3g} s")
        finally:
            gone.cancel()
            asked.cancel()
        return self._outcome(asked, seconds)

    def _outcome(self, asked: "asyncio.Future[Any]", seconds: float) -> Any:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        if asked.cancelled():
            raise self._lost()
        error = asked.exception()
        if error is None:
            return asked.result()
        if not isinstance(error, MCPError):
            raise ToolUnavailable(
                f"server {self.name}: {type(error).__name__}: {printable(str(error))[:300]}"
            )
        if error.code == CONNECTION_CLOSED:
            self._end()
            raise self._lost()
        if error.code == REQUEST_TIMEOUT:
            raise ToolUnavailable(f"server {self.name} did not answer within {seconds:.3g} s")
        raise ToolError(f"server {self.name} refuses: {printable(error.message)[:500]}")

    def _lost(self) -> ToolUnavailable:
        return ToolUnavailable(
            f"server {self.name} {self._why} during the call; it may have been done or not"
        )

    async def _revive(self) -> None:
        """A session that is alive; one that ended is begun anew."""
        async with self._starting:
            if self._ending and self._task is not None:
                await asyncio.wait({self._task}, timeout=self._config.start_seconds)
            if not self._gone.is_set():
                return
            if self._restarts <= 0:
                raise ToolUnavailable(
                    f"server {self.name} has ended {RESTARTS + 1} times; it is not started again"
                )
            self._restarts -= 1
            await self.start()

    async def _live(self, ready: "asyncio.Future[list[Offer]]") -> None:
        """The whole life of one session. However it ends, nothing of it leaves this task."""
        import anyio
        from mcp import Client

        logging.getLogger("mcp").addHandler(
            logging.NullHandler()
        )  # what is no protocol is not our users' to read
        logging.getLogger("mcp").propagate = False
        with Boundary() as own:
            try:
                notices = Notices()
                with anyio.CancelScope() as self._scope:
                    async with (
                        _transport(self._config, self._log) as transport,
                        Client(transport, message_handler=notices) as self._client,
                        anyio.create_task_group() as beside,
                    ):
                        ready.set_result(await self._list())
                        if self._config.ping_seconds is not None:
                            beside.start_soon(self._watch, self._config.ping_seconds)
                        beside.start_soon(follow, self._client, notices, self._list_again)
                        await anyio.sleep_forever()
            except (
                BaseExceptionGroup
            ) as errors:  # a cancelled scope among them must not look like our own end
                raise ToolUnavailable(_reason(errors)) from None
        self._gone.set()
        if not ready.done():
            why = "ended" if own.error is None else _reason(own.error)
            ready.set_exception(ToolUnavailable(f"does not start: {why}"))

    async def _watch(self, seconds: float) -> None:
        """End the session of a server that does not say whether it lives; its calls hear that, and why."""
        try:
            await watch(self._client, seconds)
        except ToolUnavailable as error:
            self._why = str(error)
            raise

    async def _list_again(self) -> None:
        """The tools as they are now: those of a run that are not what they were cannot be called any more."""
        self._offers = {offer.name: offer for offer in await self._list()}

    async def _list(self) -> list[Offer]:
        found, cursor = [], None
        for _ in range(MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            found += [_offer(tool) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(found) >= MOST_TOOLS:
                break
        wanted = self._config.tools
        return [offer for offer in found[:MOST_TOOLS] if wanted is None or offer.name in wanted]


def _offer(tool: Any) -> Offer:
    said = tool.model_dump_json(by_alias=True, exclude_none=True)
    schema = json.loads(json.dumps(tool.input_schema))
    words = printable(tool.description or tool.name)[:LONGEST]
    return Offer(tool.name, words, schema, sha256(said.encode()).hexdigest())


@asynccontextmanager
async def _transport(config: ServerConfig, log: Path | None) -> AsyncIterator[Any]:
    """The SDK's way to the server, not begun yet; what a process of ours writes to stderr goes into the log."""
    import httpx2
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if config.url is not None:
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        # A server may keep the stream of an answer open for as long as its call takes.
        timeout = httpx2.Timeout(config.start_seconds, read=config.call_seconds + config.start_seconds)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout) as http:
            yield streamable_http_client(config.url, http_client=http)
        return
    assert config.command is not None
    env = {name: value.get_secret_value() for name, value in config.env.items()}
    asked = StdioServerParameters(command=config.command, args=list(config.args), env=env, cwd=config.cwd)
    path = Path(os.devnull) if log is None else log
    with path.open("a", encoding="utf-8", errors="replace") as errors:
        yield stdio_client(asked, errlog=errors)


def _reason(error: BaseException) -> str:
    """The first error inside groups of them, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ToolUnavailable):
        return str(error)
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)[:300]
