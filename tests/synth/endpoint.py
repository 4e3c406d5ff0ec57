"""An endpoint that answers at once, or as badly as a prompt tells it to; `python -m` this starts one.

A word in a prompt chooses what happens to it (MISDEEDS); everything else gets a good answer that its words decide.
"""

import asyncio
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from threading import Event, Thread

TEXT = """
apple river stone window garden yellow walking under beside three children wooden table bright
morning train station holding umbrella smiling dog across street building glass mountain cloud
silver bicycle quiet market orange boat sleeping corner paper lantern crowd bridge green field tall
narrow round empty heavy soft distant
"""
WORDS = TEXT.split()
FACT = re.compile(r"fact (\w+)")
MISDEEDS = ("broken", "garbage", "truncated", "refuses", "leaks", "slow", "busy", "flaky", "declines", "dies")


def prose(seed: str, words: int = 50) -> str:
    """Words that follow from a seed; two seeds have little in common."""
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words)) + "."


def text_of(body: dict) -> str:
    """All that a request says."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(found)


def shape_of(body: dict, said: str) -> dict | str:
    """A good answer: of the shape that is asked for, or in words."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    names = set(schema.get("properties", ()))
    if names == {"description"}:
        return {"description": said}
    if names == {"comparison"}:
        return {"comparison": said}
    if names == {"turns"}:
        pieces = said.split()
        return {"turns": [
            {"question": f"What about the {pieces[n]}?", "answer": " ".join(pieces[n + 1 : n + 9])} for n in (0, 10)
        ]}  # fmt: skip
    if names == {"question", "answer"}:
        return {"question": f"Why is the {said.split()[0]} there?", "answer": said}
    if names == {"text", "questions"}:
        pieces = said.split()
        return {"text": said, "questions": [
            {"question": "What is first?", "answer": pieces[0]}, {"question": "What else?", "answer": "nowhere"},
        ]}  # fmt: skip
    if names == {"open", "choice"}:
        pieces = said.split()
        return {
            "open": [{"kind": "count", "question": f"How many {pieces[0]}s?", "answer": " ".join(pieces[:8])}],
            "choice": {
                "kind": "order", "question": "What is first?", "right": "B",
                "options": ["one", "two", "three", "four"],
            },
        }  # fmt: skip
    if names == {"explanation", "score"}:
        return {
            "explanation": "It says so.",
            "score": 5 if "right" in text_of(body).rpartition("rated:")[2] else 1,
        }
    return said


class Script:
    """What is said to a request; `asked` counts each (prompt, seed), `seen` all requests."""

    def __init__(self, slow: float = 0.3) -> None:
        self.asked: Counter[str] = Counter()
        self.slow, self.seen, self.bodies = slow, 0, []

    async def reply(self, body: dict) -> tuple[int, dict, dict[str, str]]:
        self.seen += 1
        text = text_of(body)
        key = blake2b(json.dumps([body["messages"], body.get("seed")]).encode(), digest_size=8).hexdigest()
        self.asked[key] += 1
        misdeed = next((word for word in MISDEEDS if f"fact {word}" in text), "")
        if misdeed == "busy" and self.asked[key] == 1:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}
        if misdeed == "flaky" and self.asked[key] == 1:
            return 500, {"error": {"message": "oops"}}, {}
        if misdeed == "declines":
            return 400, {"error": {"message": "not that"}}, {}
        if misdeed == "dies":
            return 502, {"error": {"message": "gone"}}, {}
        if misdeed == "slow":
            await asyncio.sleep(self.slow)
        fact = FACT.search(text)
        said = f"{fact[1] if fact else ''} {prose(key)}".strip()
        answer = shape_of(body, said)
        whole = answer if isinstance(answer, str) else json.dumps(answer)
        whole, finish = spoil(misdeed, whole)
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(whole.split())}
        choice = {"index": 0, "message": {"role": "assistant", "content": whole}, "finish_reason": finish}
        return 200, {"choices": [choice], "usage": usage}, {}


def spoil(misdeed: str, whole: str) -> tuple[str, str]:
    """The answer and how it ended."""
    if misdeed == "broken":
        return "Sure! Here it is:\n```json\n" + whole.removesuffix("}") + ",\n```", "stop"
    if misdeed == "garbage":
        return "no such thing", "stop"
    if misdeed == "truncated":
        return whole[: len(whole) // 2], "length"
    if misdeed == "refuses":
        return json.dumps({"description": "I'm sorry, but I cannot see the image. " + whole}), "stop"
    if misdeed == "leaks":
        return json.dumps({"description": "The caption says that it is so. " + whole}), "stop"
    return whole, "stop"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script) -> None:
    """One connection, as long as it is kept."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            data = await reader.readexactly(int(length[1])) if length else b""
            if head.startswith(b"GET"):
                status, answer, more = 200, {"data": [{"id": "scripted"}]}, {}
            else:
                status, answer, more = await script.reply(json.loads(data))
            body = json.dumps(answer).encode()
            lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in more.items()]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def listen(script: Script, ready) -> None:
    """Until the task is cancelled; `ready` is told the URL."""
    server = await asyncio.start_server(lambda r, w: serve(r, w, script), "127.0.0.1", 0, limit=1 << 26)
    async with server:
        ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()


@contextmanager
def endpoint(script: Script | None = None) -> Iterator[tuple[str, Script]]:
    """The endpoint in a thread: its URL, and what it was asked."""
    script, started, place = script or Script(), Event(), []
    loop = asyncio.new_event_loop()

    def ready(url: str) -> None:
        place.append(url)
        started.set()

    task = loop.create_task(listen(script, ready))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            loop.close()

    thread = Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield place[0], script
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


if __name__ == "__main__":
    slow = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    asyncio.run(listen(Script(slow), lambda url: print(url, flush=True)))
