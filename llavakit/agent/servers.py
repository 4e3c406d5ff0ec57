"""Outside servers of tools (MCP), running: asked by a deadline, and done without when they die.

All of them live in one event loop in a thread, each in a task of its own. What goes wrong there (a dead process, an
exception group, a cancelled scope) is a ToolUnavailable of the calls to that server, and nothing else's trouble.
"""

import asyncio
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from llavakit.agent.connection import Connection, Offer
from llavakit.agent.outside import OutsideTool
from llavakit.agent.server_config import ServersConfig
from llavakit.core.errors import ConfigError
from llavakit.text.calls import ToolUnavailable

CLOSE_SECONDS = 8.0  # for all servers to end; then they are left to the system


class Servers:
    """The servers of a file, running. `problems` has a line for each that did not start."""

    def __init__(self, config: ServersConfig, *, log: Path | None = None) -> None:
        """What the servers write to stderr goes into `log`."""
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError("tools of outside servers need mcp: pip install 'llavakit[tools]'") from None
        self._config, self._log = config, log
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="llavakit-mcp", daemon=True)
        self._connections: dict[str, Connection] = {}
        self.tools: list[OutsideTool] = []
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        starting = {}
        for name, one in self._config.mcpServers.items():
            self._connections[name] = Connection(name, one, self._log)
            starting[name] = self._soon(self._connections[name].start())
        for name, future in starting.items():
            try:
                offers = future.result(self._config.mcpServers[name].start_seconds + 1)
            except (ToolUnavailable, Late) as error:
                self.problems.append(f"server {name}: {str(error) or 'did not start in time'}")
                continue
            self.tools += [
                OutsideTool(partial(self.call, name, offer), name, offer, self._config.mcpServers[name])
                for offer in offers
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        endings = [self._soon(connection.stop()) for connection in self._connections.values()]
        for ending in endings:
            with suppress(Late, ToolUnavailable):
                ending.result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)

    def call(self, server: str, tool: Offer, arguments: dict[str, Any], *, seconds: float) -> Any:
        """What a tool of a server gives (a CallToolResult). ToolUnavailable where it is gone or late."""
        asked = self._soon(self._connections[server].call(tool, arguments, seconds=seconds))
        try:
            return asked.result(seconds + 1)
        except Late:
            asked.cancel()
            raise ToolUnavailable(f"server {server} did not answer within {seconds:.3g} s") from None

    def _soon(self, work: Any) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)
