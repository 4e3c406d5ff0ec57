"""Clients that send nothing, too much, or too slowly: they cost a connection for a while."""

import asyncio
import errno
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from llavakit.serve import connection
from llavakit.serve.connection import LoopErrors
from tests.serve.live import CHAT, ScriptedWorker, asked, served, wait_until
from tests.serve.test_traffic import head, in_flight, post, send


def closes(wire: socket.socket, seconds: float = 5) -> bytes:
    """What still comes before the server ends the connection."""
    wire.settimeout(seconds)
    data = b""
    try:
        while chunk := wire.recv(4096):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def test_slow_uploads_take_no_place_and_are_ended(monkeypatch):
    monkeypatch.setattr(connection, "LINGER", 0.3)
    with served(ScriptedWorker("a"), max_requests=2, upload_seconds=0.5, min_upload_rate=1000) as (url, made):
        slow = [send(url, head(10_000) + b" " * 100) for _ in range(20)]
        assert post(url, asked()).status_code == 200 and in_flight(url) == 0
        for wire in slow:
            assert b" 408 " in closes(wire)
        wait_until(lambda: made.memory.taken == 0)


def test_a_slow_line_has_the_time_it_needs():
    with served(ScriptedWorker("a"), upload_seconds=0.3, min_upload_rate=1000) as (url, _):
        body = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"x" * 1500 + b'"}]}'
        with send(url, head(len(body)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as wire:
            for start in range(0, len(body), 200):
                wire.sendall(body[start : start + 200])
                time.sleep(0.1)
            assert b" 200 " in closes(wire)


@pytest.mark.parametrize("sent", [b"", b"POST ", b"\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_who_does_not_end_the_headers_is_ended(sent, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with served(ScriptedWorker("a")) as (url, _):
        began = time.monotonic()
        assert closes(send(url, sent)) == b"" and time.monotonic() - began < 4
        assert httpx2.get(f"{url}/health").status_code == 200


def test_headers_without_end_are_not_gathered():
    with served(ScriptedWorker("a")) as (url, _), send(url, b"GET / HTTP/1.1\r\nX: ") as wire:
        sent = 0
        with pytest.raises(OSError):
            while sent < 64 * 2**20:
                sent += wire.send(b"x" * 65536)
        assert sent < 16 * 2**20, "what the kernel's buffers hold, and a little"


def test_the_rest_of_a_refused_upload_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(connection, "LINGER", 0.3)
    with served(ScriptedWorker("a"), max_body_bytes=100) as (url, _):
        began = time.monotonic()
        assert b" 413 " in closes(send(url, head(1000) + b" " * 200)) and time.monotonic() - began < 4


def test_one_byte_a_chunk_stops_nobody():
    """Each chunk was a turn of the event loop in Python: a megabyte of them took all others' time."""
    chunks = b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
    lines = (
        f"POST {CHAT} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    )
    with served(ScriptedWorker("a")) as (url, _), ThreadPoolExecutor(1) as pool:
        wire = send(url, "\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n")
        sending = pool.submit(wire.sendall, chunks)
        gaps = []
        while not sending.done():
            began = time.monotonic()
            assert httpx2.get(f"{url}/health").status_code == 200
            gaps.append(time.monotonic() - began)
        assert b" 400 " in closes(wire, 20)
        assert max(gaps, default=0) < 1


def test_clients_beyond_the_descriptors_are_sent_away(monkeypatch):
    monkeypatch.setattr(connection, "most_connections", lambda: 5)
    with served(ScriptedWorker("a")) as (url, _):
        first = [send(url, b"") for _ in range(5)]
        assert closes(send(url, b"")) == b""
        for wire in first:
            wire.close()
        wait_until(lambda: _answers(url))


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.HTTPError:
        return False


def test_trouble_of_the_system_is_a_line_a_second(caplog):
    handler = LoopErrors()

    async def exhaust() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(1000):
            error = OSError(errno.EMFILE, "Too many open files")
            handler(loop, {"message": "socket.accept() out of system resource", "exception": error})

    with caplog.at_level("INFO"):
        asyncio.run(exhaust())
    (record,) = caplog.records
    assert record.fields["error"] == "Too many open files" and not record.exc_info
