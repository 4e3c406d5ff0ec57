"""Speaking to a server over HTTP: requests and their errors, conversations in the words of OpenAI's API."""

import base64
import io
import json
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from llavakit.core.errors import DataError, RemoteError, RemoteRefused, RemoteTimeout
from llavakit.core.pace import Pace
from llavakit.text.conversation import Image, ImageSource, Message, Text, Video
from llavakit.vision.image import load_image
from llavakit.vision.kinds import TRAVELLING, Sort, kind_of
from llavakit.vision.video import name_of

BUSY = (429, 503)  # come back later
LONGEST_PAUSE = 60.0  # seconds
POOLING = "/pooling"  # of vLLM and of ours: what a model that does not answer makes of a conversation
CHAT = "/chat/completions"
# Of vLLM and of ours: new weights out of a directory, and forgetting what was computed with the old ones.
CONTROL, FORGET = "/collective_rpc", ("/reset_prefix_cache", "/reset_encoder_cache")
UNVERSIONED = (POOLING, CONTROL, *FORGET)  # have no /v1 before them


class Server:
    """A server that is asked, by several threads at once if need be."""

    def __init__(
        self,
        url: str,
        *,
        model_name: str | None = None,
        api_key: str | None = None,
        at_once: int = 16,
        tries: int = 5,
        seconds: float = 600,
        start: int | None = None,
    ) -> None:
        """`url` with or without /v1. Without `model_name` the server has to serve exactly one model.

        At most `at_once` requests are under way, fewer after the server said that it is busy; with a `start`
        as many as it answers without getting slow. A busy server is asked `tries` times, after the pauses it names.
        """
        if tries < 1 or at_once < 1:
            raise RemoteError("tries and at_once are at least 1")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RemoteError(f"{url!r} is not the URL of a server: http://host:port")
        self.url = url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
        self.at_once, self._tries, self.pace = at_once, tries, Pace(at_once, start)
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx2.Limits(max_connections=at_once)
        timeout = httpx2.Timeout(seconds, connect=10)
        self._client = httpx2.Client(headers=headers, limits=limits, timeout=timeout)
        self.model_name = model_name or self._only_model()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of what is answered to a POST; a RemoteError for what is no success."""
        with self.request("POST", path, body) as response:
            return _json(response)

    def entry(self) -> dict[str, Any]:
        """What the server tells about the model; empty if it lists it not."""
        return next((entry for entry in self._models() if entry["id"] == self.model_name), {})

    def _models(self) -> list[dict[str, Any]]:
        with self.request("GET", "/models") as response:
            models: list[dict[str, Any]] = _json(response)["data"]
        return models

    def _only_model(self) -> str:
        names = [entry["id"] for entry in self._models()]
        if len(names) != 1:
            raise RemoteError(f"{self.url} serves {', '.join(names) or 'no model'}; choose with model_name")
        return str(names[0])

    @contextmanager
    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[httpx2.Response]:
        """A response that is a success; its body is still to be read."""
        try:
            with self.pace.turn(), closing(self._open(method, path, body)) as response:
                if not response.is_success:
                    refused = response.is_client_error and response.status_code not in BUSY
                    kind = RemoteRefused if refused else RemoteError
                    raise kind(f"{self.url}: {response.status_code}: {said(_json(response))}")
                yield response
        except httpx2.TimeoutException:
            raise RemoteTimeout(f"{self.url} did not answer in time") from None
        except httpx2.HTTPError as error:
            raise RemoteError(f"{self.url} cannot be reached: {error}") from None

    def _open(self, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        """The first response that is not `busy`, or the last one."""
        base = self.url.removesuffix("/v1") if path in UNVERSIONED else self.url
        for count, left in enumerate(reversed(range(self._tries))):
            request = self._client.build_request(method, base + path, json=body)
            try:
                response = self._client.send(request, stream=True)
            except httpx2.RemoteProtocolError:  # a connection that the server had closed meanwhile
                if not left:
                    raise
                continue
            if response.status_code not in BUSY or not left:
                return response
            response.close()
            self.pace.slow_down()
            time.sleep(_pause(response, count))
        raise AssertionError("tries is at least 1")


def read_events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events, up to [DONE]; an end without it is an error."""
    rest = b""
    for data in response.iter_bytes():
        # Not by `iter_lines`, which also breaks lines at U+2028 and others that an answer may hold.
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name != b"data":
                continue
            if value.strip() == b"[DONE]":
                return
            try:
                yield json.loads(value)
            except ValueError:
                raise RemoteError(f"{response.url.host} sent an event that is not JSON") from None
    raise RemoteError(f"{response.url.host}: the answer was cut off")


def _json(response: httpx2.Response) -> Any:
    response.read()
    try:
        return response.json()
    except ValueError:
        return response.text


def said(answer: Any) -> str:
    """What an error says, in the shapes that are about: OpenAI's, vLLM's older one, plain text."""
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        answer = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(answer).split())[:500]


def _pause(response: httpx2.Response, count: int) -> float:
    """Seconds that the server names; where it names none twice as many each time, not the same for all who wait."""
    try:
        return min(float(response.headers["retry-after"]), LONGEST_PAUSE)
    except (KeyError, ValueError):  # none, or a date
        return min(random.uniform(0.5, 1.0) * 2.0**count, LONGEST_PAUSE)


def write_message(message: Message) -> dict[str, Any]:
    """OpenAI's form. Texts that follow each other are one: servers differ in what they put between two."""
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if not isinstance(part, Text):
            parts.append(_medium(part))
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += part.text
        else:
            parts.append({"type": "text", "text": part.text})
    if all(part["type"] == "text" for part in parts):
        return {"role": message.role, "content": message.text}
    return {"role": message.role, "content": parts}


def _medium(part: Image | Video) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": _image_url(part.source)}}
    source = part.source
    if isinstance(source, tuple) or (isinstance(source, Path) and source.is_dir()):
        raise DataError(f"{name_of(source)}: a server takes video files, not folders of frames")
    data = source if isinstance(source, bytes) else _read(source)
    return {"type": "video_url", "video_url": {"url": _data_url(data, "video", name_of(source))}}


def _image_url(source: ImageSource) -> str:
    if isinstance(source, Path | bytes):
        data = source if isinstance(source, bytes) else _read(source)
        if kind_of(data, "image") in TRAVELLING:
            return _data_url(data, "image", "")
    out = io.BytesIO()  # pictures in memory, and kinds that do not travel: the same pixels as a PNG
    load_image(source).save(out, "PNG")
    return _data_url(out.getvalue(), "image", "")


def _data_url(data: bytes, sort: Sort, name: str) -> str:
    kind = kind_of(data, sort)
    if kind is None:
        raise DataError(f"{name}: not a {sort} in a format that servers take")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
