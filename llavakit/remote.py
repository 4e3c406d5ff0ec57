"""A model behind an OpenAI-compatible server, with the face of `Chat`.

bot = llavakit.Remote("http://127.0.0.1:8000")
bot.ask("What color is the shape?", images=["x.png"])
"""

import base64
import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from llavakit.core.errors import DataError, RemoteError, RemoteTimeout, UserError
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import (
    Conversation,
    Image,
    ImageSource,
    Message,
    Text,
    Video,
)
from llavakit.vision.image import load_image
from llavakit.vision.kinds import TRAVELLING, Sort, kind_of
from llavakit.vision.video import name_of, probe_video

CHAT = "/chat/completions"
BUSY = (429, 503)  # come back later
# What other servers know under the same names; sent only where it differs from the default.
EXTRA = (
    "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
)  # fmt: skip


class Remote(Responder):
    """Asks a server (llavakit, vLLM, SGLang and others) as `Chat` asks a local model."""

    def __init__(
        self,
        url: str,
        *,
        model_name: str | None = None,
        api_key: str | None = None,
        at_once: int = 16,
        tries: int = 5,
        seconds: float = 600,
    ) -> None:
        """`url` with or without /v1. Without `model_name` the server has to serve exactly one model.

        `batch` keeps `at_once` requests under way. A busy server is asked `tries` times, after the pauses it names.
        """
        if tries < 1 or at_once < 1:
            raise RemoteError("tries and at_once are at least 1")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RemoteError(f"{url!r} is not the URL of a server: http://host:port")
        self.url = url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
        self.at_once, self.tries = at_once, tries
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx2.Limits(max_connections=at_once)
        timeout = httpx2.Timeout(seconds, connect=10)
        self._client = httpx2.Client(headers=headers, limits=limits, timeout=timeout)
        self.model_name = model_name or self._only_model()
        self._num_tokens: int | None = None

    def answers(self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY) -> list[Answer]:
        """The next assistant text of each conversation. Number i draws with seed + i."""
        bodies = [self._body_of(index, talk, sampling) for index, talk in enumerate(conversations)]
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._whole, bodies))

    def outcomes(
        self, conversations: Sequence[Conversation], *, sampling: Sampling = GREEDY
    ) -> Iterator[tuple[int, Answer | UserError]]:
        """(number, its answer or why it has none), as they come. Number i draws with seed + i.

        What is dropped in the middle waits for the requests under way and sends no other.
        """
        pool = ThreadPoolExecutor(self.at_once)
        try:
            asked = {
                pool.submit(self._outcome, index, talk, sampling): index
                for index, talk in enumerate(conversations)
            }
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _outcome(self, index: int, conversation: Conversation, sampling: Sampling) -> Answer | UserError:
        try:
            return self._whole(self._body_of(index, conversation, sampling))
        except (RemoteError, DataError) as error:
            return error

    def _body_of(self, index: int, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        return self._body(conversation, sampling.model_copy(update={"seed": sampling.seed + index}))

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces. Joined and stripped, they are what `batch` gives."""
        body = self._body(conversation, sampling)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        self._num_tokens = None
        with self._request("POST", CHAT, body) as response:
            for event in _events(response):
                if event.get("error"):
                    raise RemoteError(f"{self.url}: {_said(event)}")
                if event.get("usage"):
                    self._num_tokens = event["usage"]["completion_tokens"]
                for choice in event.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        yield text

    def num_tokens(self, answer: str) -> int | None:
        """Tokens of the answer that was streamed last, as the server counted them; None if it did not say."""
        return self._num_tokens

    def describe(self, video: Video) -> str:
        """One line about a video that will be sent."""
        info = probe_video(video.source)
        return f"{len(info.times)} frames, {info.seconds:.1f} s; the server chooses among them"

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _only_model(self) -> str:
        with self._request("GET", "/models") as response:
            names = [entry["id"] for entry in _json(response)["data"]]
        if len(names) != 1:
            raise RemoteError(f"{self.url} serves {', '.join(names) or 'no model'}; choose with model_name")
        return str(names[0])

    def _body(self, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        if sampling.n != 1 or sampling.stop_ids or sampling.ignore_end:
            raise RemoteError(
                "n, stop_ids and ignore_end are for a local engine; a server is asked without them"
            )
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [_message(message) for message in conversation.messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.temperature > 0:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        body |= sampling.model_dump(include=set(EXTRA), exclude_defaults=True)
        if sampling.json_schema is not None:
            shape = {"name": "answer", "schema": json.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body

    def _whole(self, body: dict[str, Any]) -> Answer:
        with self._request("POST", CHAT, body) as response:
            answer = _json(response)
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return Answer(
                str(choice["message"]["content"] or "").strip(),
                str(choice.get("finish_reason") or "unknown"),
                usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
            )
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RemoteError(f"{self.url} did not answer as OpenAI does: {str(answer)[:200]}") from None

    @contextmanager
    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[httpx2.Response]:
        """A response that is a success; its body is still to be read."""
        try:
            with closing(self._open(method, path, body)) as response:
                if not response.is_success:
                    raise RemoteError(f"{self.url}: {response.status_code}: {_said(_json(response))}")
                yield response
        except httpx2.TimeoutException:
            raise RemoteTimeout(f"{self.url} did not answer in time") from None
        except httpx2.HTTPError as error:
            raise RemoteError(f"{self.url} cannot be reached: {error}") from None

    def _open(self, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        """The first response that is not `busy`, or the last one."""
        for left in reversed(range(self.tries)):
            request = self._client.build_request(method, self.url + path, json=body)
            try:
                response = self._client.send(request, stream=True)
            except httpx2.RemoteProtocolError:  # a connection that the server had closed meanwhile
                if not left:
                    raise
                continue
            if response.status_code not in BUSY or not left:
                return response
            response.close()
            time.sleep(_pause(response))
        raise AssertionError("tries is at least 1")


def _events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
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


def _said(answer: Any) -> str:
    """What an error says, in the shapes that are about: OpenAI's, vLLM's older one, plain text."""
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        answer = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(answer).split())[:500]


def _pause(response: httpx2.Response) -> float:
    try:
        return min(float(response.headers.get("retry-after", "1")), 60.0)
    except ValueError:  # a date
        return 1.0


def _message(message: Message) -> dict[str, Any]:
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
