"""Our tools as an MCP server, driven by the SDK's client and by one that shares no code with it."""

import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import numpy as np
import PIL.Image
import pytest
from aiohttp_tiny_mcp.client.http import Client as OtherHttp
from aiohttp_tiny_mcp.client.stdio import StdioClient as OtherStdio
from aiohttp_tiny_mcp.protocol.selection import AdapterSet
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from llavakit.core.errors import ConfigError
from llavakit.serve.tool_run import serve_tools, with_bringing
from llavakit.serve.tool_server import ToolServer
from llavakit.tools.artifacts import Artifacts
from llavakit.tools.skills import open_tools

KEY = "only-for-this-test"
NAMES = "crop,colors,count_shapes,zoom,calculate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a picture, and one with a secret beside it."""
    path = tmp_path_factory.mktemp("shown")
    shapes = PIL.Image.new("RGB", (1200, 800), "white")
    for left, color in ((50, "red"), (400, "blue"), (800, "red")):
        shapes.paste(color, (left, 100, left + 200, 350))
    shapes.save(path / "shapes.png")
    (path.parent / "secret.png").write_bytes((path / "shapes.png").read_bytes())
    (path / "link.png").symlink_to(path.parent / "secret.png")
    return path


def command(folder, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "llavakit",
        "tools",
        "serve",
        "--tools",
        NAMES,
        "--folder",
        str(folder),
        *more,
    ]


def png(width: int = 64, height: int = 48) -> str:
    data = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(
        data, "PNG"
    )
    return base64.b64encode(data.getvalue()).decode()


async def drive(client) -> None:
    """What any client does: list, bring, call, read, and be told what is wrong."""
    tools = (await client.list_tools()).tools
    names = [tool.name for tool in tools]
    assert names == sorted([*NAMES.split(","), "open_image", "put_image"])
    crop = tools[names.index("crop")]
    assert crop.annotations.read_only_hint and crop.input_schema["required"] == ["image", "box"]
    assert "img_1" not in json.dumps([tool.model_dump() for tool in tools])

    brought = await client.call_tool("open_image", {"path": "shapes.png"})
    (picture,) = brought.structured_content["pictures"]
    assert picture["size"] == [1200, 800] and re.fullmatch("[a-z2-7]{16}", picture["id"])
    counted = await client.call_tool("count_shapes", {"image": picture["id"]})
    assert counted.structured_content["by_color"] == {"blue": 1, "red": 2}
    assert json.loads(counted.content[0].text) == counted.structured_content

    cut = await client.call_tool("crop", {"image": picture["id"], "box": [0, 0, 0.5, 0.5]})
    text, thumbnail, link = cut.content
    assert (text.type, thumbnail.type, link.type) == ("text", "image", "resource_link")
    assert PIL.Image.open(io.BytesIO(base64.b64decode(thumbnail.data))).size == (256, 171)
    whole = (await client.read_resource(link.uri)).contents[0]
    assert PIL.Image.open(io.BytesIO(base64.b64decode(whole.blob))).size == (600, 400)

    for name, arguments, says in [
        ("crop", {"image": picture["id"]}, "box: field required"),
        ("crop", {"image": "a" * 16, "box": [0, 0, 1, 1]}, "no such picture"),
        ("crop", {"box": [0, 0, 1, 1]}, "a call must name one"),
        ("open_image", {"path": "../secret.png"}, "there are: link.png, shapes.png"),
        ("open_image", {"path": "link.png"}, "there is no file"),
        ("open_image", {"path": "/etc/passwd"}, "there is no file"),
        ("put_image", {"data": "no base64!"}, "not base64"),
        ("put_image", {"data": "aGVsbG8="}, "not an image"),
    ]:
        failed = await client.call_tool(name, arguments)
        assert failed.is_error and says in failed.content[0].text, (name, failed.content[0].text)


def test_the_sdk_drives_it_over_stdio(folder):
    async def run() -> None:
        where = StdioServerParameters(
            command=sys.executable, args=command(folder)[1:], env=dict(os.environ), cwd=str(folder)
        )
        async with Client(stdio_client(where)) as client:
            await drive(client)
            put = await client.call_tool("put_image", {"data": png()})
            assert put.structured_content["size"] == [64, 48]

    anyio.run(run)


@asynccontextmanager
async def another(folder, version: str):
    process = await asyncio.create_subprocess_exec(
        *command(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    adapter = AdapterSet.default().by_version[version]
    client = OtherStdio(process.stdout, process.stdin, adapter)
    try:
        yield client
    finally:
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert await process.stdout.read() == b""


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_a_client_of_other_hands_drives_it_over_stdio(folder, version):
    async def run() -> None:
        async with another(folder, version) as client:
            await client.initialize()
            tools = await client.list_tools()
            assert [tool.name for tool in tools][:2] == ["calculate", "colors"]
            brought = await client.call_tool("put_image", {"data": png()})
            name = brought.structured_content["pictures"][0]["id"]
            made = await client.call_tool("zoom", {"image": name, "box": [0, 0, 0.5, 0.5], "side": 100})
            assert made.structured_content["scale"] == pytest.approx(100 / 24, abs=0.05)
            wrong = await client.call_tool("calculate", {"expression": "1/0"})
            assert wrong.is_error and "division by zero" in json.dumps(wrong.content, default=str)

    asyncio.run(run())


@pytest.fixture(scope="module")
def server(folder):
    """Over HTTP, with a key."""
    words = command(folder, "--http", "127.0.0.1:0", "--api-key", KEY)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        yield re.search(r"http://\S+", process.stdout.readline())[0]
        process.terminate()
        assert process.wait(20) == 0


def test_both_drive_it_over_http_and_strangers_do_not(server, folder):
    import httpx2

    headers = {"Authorization": f"Bearer {KEY}"}

    async def run() -> None:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(server, http_client=http)) as client,
        ):
            await drive(client)
        adapter = AdapterSet.default().by_version["2025-11-25"]
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            OtherHttp(server, adapter, session=session) as other,
        ):
            await other.initialize()
            said = await other.call_tool("calculate", {"expression": "6*7"})
            assert said.structured_content == {"value": 42}

    asyncio.run(run())
    assert httpx2.post(server, json={}).status_code == 401
    assert httpx2.post(server, json={}, headers=headers | {"Host": "evil.example"}).status_code in (403, 421)


def test_two_servers_on_one_folder_know_the_same_pictures(tmp_path):
    """It keeps nothing: a second process answers for what a first one was brought."""
    registry = with_bringing(open_tools(["colors"]), None)
    try:
        one, other = ToolServer(registry, Artifacts(tmp_path)), ToolServer(registry, Artifacts(tmp_path))
        name = one.run("put_image", {"data": png()}).structured_content["pictures"][0]["id"]
        assert not other.run("colors", {"image": name}).is_error
        assert other.read(f"artifact://{name}").contents[0].mime_type == "image/png"
    finally:
        registry.close()


@pytest.mark.parametrize(
    ("names", "folder", "http", "says"),
    [
        (None, None, "0.0.0.0:0", "give them an --api-key"),
        (None, None, "8900", "write HOST:PORT"),
        (["crob"], None, None, "did you mean 'crop'"),
        (None, Path("gone"), None, "gone: not a folder"),
    ],
)
def test_a_wrong_command_is_one_line(names, folder, http, says):
    with pytest.raises(ConfigError, match=says) as raised:
        serve_tools(open_tools(names), folder, http, None, unit="0-1", store=None, seconds=60)
    assert "\n" not in str(raised.value)
