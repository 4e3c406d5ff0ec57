"""The serving benchmark's requests through `llavakit serve`, each from a client of its own."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from benchmarks import smol

PATIENCE = 300  # seconds until the server must be up


class Http:
    """A server on the loopback interface, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = "serve", "--model", str(folder), "--port", str(port), "--model-name", "smol"
        self._child = subprocess.Popen([sys.executable, "-m", "llavakit", *words], stderr=subprocess.DEVNULL)
        ends = time.monotonic() + PATIENCE
        while not self._up():
            if self._child.poll() is not None or time.monotonic() > ends:
                self._child.terminate()
                raise SystemExit("llavakit serve did not start")
            time.sleep(0.2)

    def rate(self, numbers: list[int], new_tokens: int) -> float:
        """New tokens/s of all requests at once, each as long as the engine's own: nothing ends an answer."""
        bodies = [self._body(number, new_tokens) for number in numbers]
        with ThreadPoolExecutor(len(numbers)) as clients:
            began = time.perf_counter()
            said = sum(clients.map(self._ask, bodies))
            return said / (time.perf_counter() - began)

    def _up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _body(self, number: int, new_tokens: int) -> bytes:
        picture = base64.b64encode(smol.picture(number)).decode()
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
            {"type": "text", "text": smol.QUESTION.format(number % 10)},
        ]
        messages = [{"role": "user", "content": parts}]
        body = {
            "model": "smol",
            "messages": messages,
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return json.dumps(body).encode()

    def _ask(self, body: bytes) -> int:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return json.load(reply)["usage"]["completion_tokens"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.wait()
