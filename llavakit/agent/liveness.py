"""Whether an outside server still lives, and when its tools change: asked beside the calls, whatever those take."""

from collections.abc import Awaitable, Callable
from typing import Any

from llavakit.text.calls import ToolUnavailable

MISSES = 3  # questions in a row without an answer, after which a server counts as dead


async def watch(client: Any, seconds: float) -> None:
    """Ask every so many seconds whether the server is there. ToolUnavailable once it has missed several questions.

    Protocol 2026-07-28 has no ping: there the server is asked what it is. Any answer will do, an error too.
    """
    import anyio
    from mcp import MCPError
    from mcp_types import REQUEST_TIMEOUT

    missed = 0
    while missed < MISSES:
        await anyio.sleep(seconds)
        try:
            with anyio.fail_after(seconds):
                await _ask(client.session)
            missed = 0
        except TimeoutError:
            missed += 1
        except MCPError as error:
            missed = missed + 1 if error.code == REQUEST_TIMEOUT else 0
    raise ToolUnavailable(f"did not answer {MISSES} times whether it lives")


async def _ask(session: Any) -> None:
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    if session.protocol_version in MODERN_PROTOCOL_VERSIONS:
        await session.send_discover(session.protocol_version)
    else:
        await session.send_ping()


async def follow(client: Any, said: Any, changed: Callable[[], Awaitable[None]]) -> None:
    """Call `changed` whenever the server says that its list of tools did, until it says nothing more.

    `said` is an event of anyio's kind that older servers' notifications set (see `Notices`).
    """
    from mcp import MCPError
    from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost

    try:
        async with client.listen(tools_list_changed=True) as events:
            async for _ in events:
                await changed()
    except ListenNotSupportedError:
        while True:
            await said.wait()
            await changed()
    except (MCPError, SubscriptionLost):  # it does not tell: its tools are listed again when it begins anew
        return


class Notices:
    """What an older server says without being asked: that its tools changed."""

    def __init__(self) -> None:
        import anyio

        self._event = anyio.Event()

    async def __call__(self, message: Any) -> None:
        """Hear a message."""
        from mcp_types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self._event.set()

    async def wait(self) -> None:
        """Until the next time it says so."""
        import anyio

        await self._event.wait()
        self._event = anyio.Event()
