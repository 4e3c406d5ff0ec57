"""Many clients at once for minutes: no error, the answers of a single client, and memory that does not grow.

Starts `llavakit serve` on loopback (with a tiny random model, unless --model names another) and keeps `--clients`
clients busy. Each asks one question after another: with no, one or two pictures, short and long, greedy and
sampled, whole and streamed, one and two choices; some hang up in the middle. Every answer is compared with the one
that a single client got before. Ends with code 1 if anything went wrong.

    python -m benchmarks.soak [--clients 200] [--seconds 120] [--model DIR]
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import psutil

HANG_UP = 0.05  # of the requests
SETTLED = 0.25  # of the time is over before memory is looked at
GROWTH = 1.05, 30 * 2**20  # what memory may grow by after that: a factor and bytes


@dataclass
class Tally:
    """What happened."""

    seconds: list[float] = field(default_factory=list)  # of each answer
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
            "wrong": dict(self.wrong),
            "median_seconds": round(spread[9], 3),
            "p95_seconds": round(spread[18], 3),
            "memory_mib": [
                round(statistics.median(part) / 2**20) if part else None for part in (early, late)
            ],
        }

    @property
    def is_flat(self) -> bool:
        """Whether memory stayed where it was."""
        sizes = [size for _, size in self.memory]
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
        expected = [await _answer(client, body) for body in asked]
        began = time.monotonic()
        running = [
            _client(client, asked, expected, tally, random.Random(number), began + seconds)
            for number in range(clients)
        ]
        if pid is not None:
            running.append(_watch(pid, tally, began, seconds))
        await asyncio.gather(*running)
        page = (await client.get("/metrics")).text
        for name in ("llavakit_engine_running", "llavakit_engine_waiting", "llavakit_requests_in_flight"):
            if f"\n{name} 0.0\n" not in page:
                tally.wrong[f"{name} is not 0 in the end"] += 1
    return tally


async def _client(
    client: httpx2.AsyncClient,
    asked: list[dict[str, Any]],
    expected: list[list[str]],
    tally: Tally,
    draw: random.Random,
    end: float,
) -> None:
    while time.monotonic() < end:
        number = draw.randrange(len(asked))
        if draw.random() < HANG_UP:
            await _hang_up(client, asked[number])
            tally.hung_up += 1
            continue
        began = time.monotonic()
        try:
            answer = await _answer(client, asked[number])
        except (httpx2.HTTPError, ValueError) as error:
            tally.wrong[f"{type(error).__name__}: {error}"[:200]] += 1
            continue
        tally.seconds.append(time.monotonic() - began)
        if answer != expected[number]:
            tally.wrong[f"another answer to question {number}"] += 1


async def _answer(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[str]:
    """The text of every choice; anything but a success is a ValueError."""
    response = await client.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        raise ValueError(f"{response.status_code}: {response.text[:150]}")
    if not body["stream"]:
        return [choice["message"]["content"] for choice in response.json()["choices"]]
    texts = [""] * body["n"]
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if last != "[DONE]":
        raise ValueError(f"the stream ends with {last[:150]}")
    for choice in (json.loads(event)["choices"][0] for event in events):
        texts[choice["index"]] += choice["delta"].get("content", "")
    return texts


async def _hang_up(client: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        async for _ in response.aiter_bytes():
            return


async def _watch(pid: int, tally: Tally, began: float, seconds: float) -> None:
    process = psutil.Process(pid)
    await asyncio.sleep(seconds * SETTLED)
    while (now := time.monotonic() - began) < seconds:
        tally.memory.append((now, process.memory_info().rss))
        await asyncio.sleep(0.5)


def _picture(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    width, height = draw.integers(20, 400, 2)
    out = io.BytesIO()
    PIL.Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


@contextmanager
def _server(model: Path) -> Iterator[tuple[str, int]]:
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
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("serving")), "")
        try:
            yield line.split()[-1].removesuffix("/v1"), process.pid
        finally:
            process.terminate()


def main() -> None:
    """Run it and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _tiny(Path(folder) / "model")
        with _server(model) as (url, pid):
            tally = asyncio.run(soak(url, "soak", clients=options.clients, seconds=options.seconds, pid=pid))
    good = not tally.wrong and tally.is_flat
    print(json.dumps({"name": "soak", "clients": options.clients, "good": good} | tally.summary()))
    sys.exit(not good)


def _tiny(folder: Path) -> Path:
    from llavakit.model import checkpoint
    from tests import tiny

    checkpoint.save(tiny.checkpoint(), folder)
    return folder


if __name__ == "__main__":
    main()
