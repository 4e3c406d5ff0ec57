"""`llavakit tools serve`: the tool server until its input ends or a signal comes."""

import shutil
from pathlib import Path

import anyio

from llavakit.core.errors import ConfigError
from llavakit.serve.pauses import shorten_pauses
from llavakit.serve.tool_server import ToolServer, http_app, serve_stdio
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.bringing import OpenImage, put_image
from llavakit.tools.function import FunctionTool
from llavakit.tools.registry import Registry, Tool
from llavakit.tools.workers import Workers
from llavakit.vision.boxes import Unit


def serve_tools(
    tools: Registry,
    folder: Path | None,
    http: str | None,
    api_key: str | None,
    *,
    unit: Unit,
    store: Path | None,
    seconds: float,
) -> None:
    """Serve these tools, and those by which pictures come in."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder}: not a folder")
    artifacts = Artifacts(store, seconds=seconds)
    registry = with_bringing(tools, folder)
    server = ToolServer(registry, artifacts, unit=unit)
    try:
        if http is None:
            shorten_pauses()
            anyio.run(serve_stdio, server)
        else:
            _serve_http(server, http, api_key)
    finally:
        registry.close()
        if store is None:
            shutil.rmtree(artifacts.folder, ignore_errors=True)


def with_bringing(registry: Registry, folder: Path | None) -> Registry:
    """The registry with the tools by which pictures come in."""
    put = FunctionTool(put_image, Workers(at_once=2))
    more: list[Tool] = [put] if folder is None else [put, OpenImage(folder, put)]
    return Registry([*registry.tools.values(), *more])


def _serve_http(server: ToolServer, place: str, api_key: str | None) -> None:
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--http {place!r}: write HOST:PORT, such as 127.0.0.1:8900")
    from llavakit.core.progress import say
    from llavakit.serve.listener import LOOPBACK, Server, app_config, listen, place_of

    host = host.strip("[]")
    with listen(host, int(port)) as listener:
        bound = listener.getsockname()[0]
        if bound not in LOOPBACK and api_key is None:
            raise ConfigError(f"whoever reaches {bound} could use these tools; give them an --api-key")
        say(f"serving {len(server.registry.tools)} tools on {place_of(listener)}/mcp")
        Server(app_config(http_app(server, host=bound, api_key=api_key))).run([listener])
