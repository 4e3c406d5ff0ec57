"""Many clients at once for minutes, some of them hostile: nobody else gets an error, another answer, or a slow one.

Starts `llavakit serve` on loopback (with a tiny random model, unless --model names another) and keeps `--clients`
clients busy. Bystanders ask one question after another: with no, one or two pictures, short and long, greedy and
sampled, whole and streamed, one and two choices; some hang up in the middle. Every answer is compared with the one
that a single client got before. After a quiet quarter of the time the others begin: the hostile requests of
`tests/serve/hostile.py`, requests at the edge of what a step can do, connections that say nothing more, and uploads
that drip or break off. Bystanders may then take at most twice as long for a token, no answer may be a 5xx, and the
server with its decoders must stay within the memory that it states at its start. Ends with code 1 if not.

    python -m benchmarks.soak [--clients 300] [--seconds 120] [--model DIR]
"""

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import psutil

from tests.serve import hostile
from tests.serve.hostile import CHAT

HANG_UP = 0.05  # of the requests
QUIET = 0.25  # of the time belongs to those who mean well
HOSTILE = 0.3  # of the clients
SLOWER = 2.0  # times as long as in the quiet a token may take beside the others
KINDS, WEIGHTS = ("body", "fault", "wire", "drip", "heavy"), (10, 5, 5, 5, 1)  # of what they do
MEMORY = ("--kv-gb", "0.5", "memory_gb=3")  # little, so that it is used up
BUSY = 429
DRIP = 20  # bytes of an upload that drips, one every tenth of a second
SETTLED = 0.4  # of the time is over before memory has to stay where it is
GROWTH = 1.05, 30 * 2**20  # what memory may grow by after that: a factor and bytes


@dataclass
class Tally:
    """What happened."""

    seconds: list[float] = field(default_factory=list)  # of each answer
    token_seconds: tuple[list[float], list[float]] = field(
        default_factory=lambda: ([], [])
    )  # quiet, then loud
    hostile: Counter[str] = field(default_factory=Counter)  # by what came of it
    busy: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    hung_up: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)  # (seconds since the start, bytes)

    def summary(self) -> dict[str, Any]:
        """The figures, medians of the memory before and after."""
        half = [size for _, size in self.memory]
        early, late = half[: max(len(half) // 3, 1)], half[-max(len(half) // 3, 1) :]
        spread = statistics.quantiles(self.seconds, n=20) if len(self.seconds) > 1 else [0.0] * 19
        return {
            "answers": len(self.seconds),
            "hung_up": self.hung_up,
            "busy": self.busy,
            "hostile": dict(self.hostile),
            "quiet_token_ms": _median_ms(self.token_seconds[0]),
            "loud_token_ms": _median_ms(self.token_seconds[1]),
            "peak_mib": round(self.peak / 2**20),
            "wrong": dict(self.wrong),
            "median_seconds": round(spread[9], 3),
            "p95_seconds": round(spread[18], 3),
            "memory_mib": [
                round(statistics.median(part) / 2**20) if part else None for part in (early, late)
            ],
        }

    @property
    def peak(self) -> int:
        """The most memory that was seen, in bytes."""
        return max((size for _, size in self.memory), default=0)

    @property
    def is_fair(self) -> bool:
        """Whether bystanders had their tokens beside the hostile about as fast as without them."""
        quiet, loud = self.token_seconds
        return bool(quiet and loud) and statistics.median(loud) <= SLOWER * statistics.median(quiet)

    @property
    def is_flat(self) -> bool:
        """Whether memory stayed where it was, once everything has been asked for."""
        settled = SETTLED * max(at for at, _ in self.memory)
        sizes = [size for at, size in self.memory if at >= settled]
        third = max(len(sizes) // 3, 1)
        early, late = statistics.median(sizes[:third]), statistics.median(sizes[-third:])
        return late <= early * GROWTH[0] + GROWTH[1]


def questions(model: str, count: int = 48) -> list[dict[str, Any]]:
    """Requests of every kind, the same ones every time."""
    draw = random.Random(0)
    pictures = [_picture(seed) for seed in range(6)]
    words = [
        "what",
        "color",
        "is",
        "the",
        "shape",
        "in",
        "the",
        "middle",
        "of",
        "this",
        "picture",
        "and",
        "how",
        "many",
        "of",
        "them",
        "are",
        "there",
    ]
    out = []
    for number in range(count):
        text = " ".join(draw.choices(words, k=draw.choice([2, 8, 40])))
        parts = [
            *draw.sample(pictures, draw.choice([0, 0, 1, 1, 2])),
            {"type": "text", "text": f"{text} {number}?"},
        ]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": draw.choice([1, 8, 24]),
            "n": draw.choice([1, 1, 2]),
            "stream": draw.random() < 0.5,
            "temperature": 0,
        }
        if draw.random() < 0.4:
            # Few to choose from: rounding, which depends on who else is in the batch, then has few edges to cross.
            body |= {"temperature": 0.8, "seed": number, "top_k": 4}
        out.append(body)
    return out


async def soak(url: str, model: str, *, clients: int, seconds: float, pid: int | None = None) -> Tally:
    """Keep so many clients busy for so long. With `pid` the memory of that process is watched."""
    asked, tally = questions(model), Tally()
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        expected = [(await _answer(client, body))[0] for body in asked]
        began = time.monotonic()
        loud, end = began + seconds * QUIET, began + seconds
        bad = round(clients * HOSTILE)
        running = [
            _bystander(client, asked, expected, tally, random.Random(number), loud, end)
            for number in range(clients - bad)
        ]
        attacks = {
            "body": [*hostile.bodies(model).values()],
            "heavy": [hostile.heavy(model)],
            "fault": [*hostile.faults(model).values()],
            "wire": [*hostile.wires().values()],
            "drip": [hostile.wires()["half a body"]],
        }
        running += [
            _attacker(client, url, attacks, tally, random.Random(number), loud, end) for number in range(bad)
        ]
        if pid is not None:
            running.append(_watch(pid, tally, began, seconds))
        await asyncio.gather(*running)
        page = (await client.get("/metrics")).text
        for name in ("llavakit_engine_running", "llavakit_engine_waiting", "llavakit_requests_in_flight"):
            if f"\n{name} 0.0\n" not in page:
                tally.wrong[f"{name} is not 0 in the end"] += 1
        for line in page.splitlines():
            if line.startswith("llavakit_http_requests_total") and 'status="5' in line:
                tally.wrong[line] += 1
    return tally


async def _bystander(
    client: httpx2.AsyncClient,
    asked: list[dict[str, Any]],
    expected: list[list[str]],
    tally: Tally,
    draw: random.Random,
    loud: float,
    end: float,
) -> None:
    while (began := time.monotonic()) < end:
        number = draw.randrange(len(asked))
        if draw.random() < HANG_UP:
            await _hang_up(client, asked[number])
            tally.hung_up += 1
            continue
        try:
            answer, tokens = await _answer(client, asked[number])
        except Busy as busy:
            tally.busy += 1
            await asyncio.sleep(busy.seconds)
            continue
        except (httpx2.HTTPError, ValueError) as error:
            tally.wrong[f"{type(error).__name__}: {error}"[:200]] += 1
            continue
        took = time.monotonic() - began
        tally.seconds.append(took)
        tally.token_seconds[began >= loud].append(took / max(tokens, 1))
        if answer != expected[number]:
            tally.wrong[f"another answer to question {number}"] += 1


async def _attacker(
    client: httpx2.AsyncClient,
    url: str,
    attacks: dict[str, list[bytes]],
    tally: Tally,
    draw: random.Random,
    loud: float,
    end: float,
) -> None:
    """One hostile thing after the other, once the quiet is over. Whatever is answered must not be a 5xx."""
    headers = {"Content-Type": "application/json"}
    await asyncio.sleep(loud - time.monotonic())
    while time.monotonic() < end:
        (kind,) = draw.choices(KINDS, WEIGHTS)
        data = draw.choice(attacks[kind])
        try:
            if kind in ("wire", "drip"):
                await _send(url, data, drip=kind == "drip")
            else:
                response = await client.post(CHAT, content=data, headers=headers)
                kind = f"{kind} {response.status_code}"
                if response.status_code >= 500:
                    tally.wrong[f"{response.status_code}: {response.text[:150]}"] += 1
        except (httpx2.HTTPError, OSError) as error:
            kind = f"{kind} {type(error).__name__}"
        tally.hostile[kind] += 1


async def _send(url: str, data: bytes, *, drip: bool) -> None:
    """What no client library would send, on a connection that is then left alone, or fed a byte now and then."""
    host, port = url.removeprefix("http://").split(":")
    _, wire = await asyncio.open_connection(host, int(port))
    try:
        wire.write(data)
        for _ in range(DRIP):
            await wire.drain()
            await asyncio.sleep(0.1)
            if drip:
                wire.write(b" ")
    finally:
        wire.transport.abort()


class Busy(Exception):
    """The server said when to come back."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


async def _answer(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[list[str], int]:
    """The text of every choice, and how many tokens they are; anything but a success is a ValueError."""
    if body["stream"]:
        body = body | {"stream_options": {"include_usage": True}}
    response = await client.post(CHAT, json=body)
    if response.status_code == BUSY:
        raise Busy(float(response.headers["Retry-After"]))
    if response.status_code != 200:
        raise ValueError(f"{response.status_code}: {response.text[:150]}")
    if not body["stream"]:
        whole = response.json()
        texts = [choice["message"]["content"] for choice in whole["choices"]]
        return texts, whole["usage"]["completion_tokens"]
    texts = [""] * body["n"]
    *events, usage, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if last != "[DONE]":
        raise ValueError(f"the stream ends with {last[:150]}")
    for choice in (json.loads(event)["choices"][0] for event in events):
        texts[choice["index"]] += choice["delta"].get("content", "")
    return texts, json.loads(usage)["usage"]["completion_tokens"]


async def _hang_up(client: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", CHAT, json=body | {"stream": True}) as response:
        async for _ in response.aiter_bytes():
            return


async def _watch(pid: int, tally: Tally, began: float, seconds: float) -> None:
    process = psutil.Process(pid)
    while (now := time.monotonic() - began) < seconds:
        sizes = [process.memory_info().rss]
        for decoder in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                sizes.append(decoder.memory_info().rss)
        tally.memory.append((now, sum(sizes)))
        await asyncio.sleep(0.5)


def _median_ms(seconds: list[float]) -> float | None:
    return round(statistics.median(seconds) * 1000, 2) if seconds else None


def _picture(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    width, height = draw.integers(20, 400, 2)
    out = io.BytesIO()
    PIL.Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


@contextmanager
def _server(model: Path) -> Iterator[tuple[str, int, float]]:
    """Its address, its process, and the memory it says it may hold."""
    command = [
        sys.executable,
        "-m",
        "llavakit",
        "serve",
        "--model",
        str(model),
        "--model-name",
        "soak",
        "--port",
        "0",
        *MEMORY,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = dict.fromkeys(("serving", "memory"), "")
        for line in process.stdout:
            lines[line.partition(" ")[0].rstrip(":")] = line
            if all(lines.values()):
                break
        # memory: at most 5.1 GB (...
        stated = float(lines["memory"].split()[3]) * 1e9
        try:
            yield lines["serving"].split()[-1].removesuffix("/v1"), process.pid, stated
        finally:
            process.terminate()


def main() -> None:
    """Run it and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _tiny(Path(folder) / "model")
        with _server(model) as (url, pid, stated):
            tally = asyncio.run(soak(url, "soak", clients=options.clients, seconds=options.seconds, pid=pid))
    good = not tally.wrong and tally.is_flat and tally.is_fair and tally.peak <= stated
    facts = {"name": "soak", "clients": options.clients, "good": good, "stated_mib": round(stated / 2**20)}
    print(json.dumps(facts | tally.summary()))
    sys.exit(not good)


def _tiny(folder: Path) -> Path:
    from llavakit.model import checkpoint
    from tests import tiny

    checkpoint.save(tiny.checkpoint(), folder)
    return folder


if __name__ == "__main__":
    main()
