"""How fast rows are made where the endpoint answers at once, and what memory a long run takes.

    python -m benchmarks.synth --rows 100000

One process is the endpoint, another makes rows of the kind `detail` from captions about one picture: asked over
HTTP, read as JSON of the shape, filtered, compared with all earlier ones (MinHash), written with their origin.
Printed are accepted rows a second and the resident memory after a tenth of the rows and at the end.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import PIL.Image
import psutil

from benchmarks.endpoint import listen, said, text_of
from benchmarks.machine import facts
from llavakit.remote import Remote
from llavakit.synth.order import Order, open_job
from llavakit.synth.run import run_job
from llavakit.synth.settings import SynthConfig

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rk", "st", "l", "mp")]
AT_ONCE = 8


async def reply(body: dict) -> tuple[int, dict, dict[str, str]]:
    """Forty words that follow from the prompt's number."""
    text = text_of(body)
    dice = random.Random(text.rpartition("number ")[2])
    return 200, said(json.dumps({"description": " ".join(dice.choices(WORDS, k=40))}), text), {}


def measure(rows: int, folder: Path, url: str) -> dict[str, float]:
    """Rows a second, and megabytes at a tenth and at the end."""
    items = folder / "items.jsonl"
    with items.open("w") as file:
        for number in range(rows):
            row = {"id": str(number), "image": "x.png", "captions": [f"number {number}"]}
            file.write(json.dumps(row) + "\n")
    PIL.Image.new("RGB", (64, 64), "red").save(folder / "x.png")
    found = {}
    for name, wanted in (("tenth", rows // 10), ("all", rows)):
        config = SynthConfig(kind="detail", rows=wanted)
        order = Order(config, items, folder / "data.jsonl")
        remote = Remote(url, at_once=AT_ONCE, start=AT_ONCE)
        begun = time.monotonic()
        with open_job(order, {"by": lambda remote=remote: (remote, {"model": "scripted"})}) as job:
            result = run_job(job)
        seconds = time.monotonic() - begun
        new = result.tally.asked - result.tally.known
        found[f"{name}: rows"] = result.tally.accepted
        found[f"{name}: rows a second"] = round(result.tally.accepted / seconds, 1)
        found[f"{name}: new answers a second"] = round(new / seconds, 1)
        found[f"{name}: resident MB"] = round(psutil.Process().memory_info().rss / 1e6, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(listen(reply, lambda url: print(url, flush=True)))
    command = [sys.executable, "-m", "benchmarks.synth", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(args.rows, Path(folder), server.stdout.readline().strip())
        finally:
            server.terminate()
    print(json.dumps(facts() | found, indent=1))


if __name__ == "__main__":
    main()
