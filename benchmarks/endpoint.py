"""A small OpenAI-compatible endpoint whose answers a function makes: as fast as Python can, one thread."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

Answer = tuple[int, dict, dict[str, str]]  # status, body, headers
Reply = Callable[[dict], Awaitable[Answer]]
MODEL = "scripted"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> None:
    """One connection, as long as it is kept."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            data = await reader.readexactly(int(length[1])) if length else b""
            models = {"data": [{"id": MODEL}]}
            status, answer, more = (200, models, {}) if head[:3] == b"GET" else await reply(json.loads(data))
            body = json.dumps(answer).encode()
            lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in more.items()]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def listen(reply: Reply, ready: Callable[[str], object]) -> None:
    """Until the task is cancelled; `ready` is told the URL."""
    server = await asyncio.start_server(lambda r, w: _serve(r, w, reply), "127.0.0.1", 0, limit=1 << 26)
    async with server:
        ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


@contextmanager
def served(reply: Reply) -> Iterator[str]:
    """The endpoint in a thread: its URL."""
    started, place, loop = Event(), [], asyncio.new_event_loop()

    def ready(url: str) -> None:
        place.append(url)
        started.set()

    task = loop.create_task(listen(reply, ready))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            loop.close()

    thread = Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield place[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def text_of(body: dict) -> str:
    """All that a request says in words."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(found)


def said(content: str, prompt: str, finish: str = "stop") -> dict:
    """A chat completion; tokens are words."""
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(content.split())}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
