"""A model behind an OpenAI-compatible server, with the face of `Chat`.

bot = llavakit.Remote("http://127.0.0.1:8000")
bot.ask("What color is the shape?", images=["x.png"])
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from llavakit.core.errors import ConfigError, DataError, RemoteError, UserError
from llavakit.engine.responder import GREEDY, Answer, Responder
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, Video
from llavakit.vision.video import probe_video
from llavakit.wire import CHAT, Server, read_events, said, write_message

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
        start: int | None = None,
    ) -> None:
        """`url` with or without /v1. Without `model_name` the server has to serve exactly one model.

        `batch` keeps `at_once` requests under way, or what the server can take (`Server`). A busy server is asked
        `tries` times, after the pauses it names.
        """
        self._server = Server(
            url,
            model_name=model_name,
            api_key=api_key,
            at_once=at_once,
            tries=tries,
            seconds=seconds,
            start=start,
        )
        self.pace = self._server.pace
        self.url, self.at_once, self.model_name = self._server.url, at_once, self._server.model_name
        self._num_tokens: int | None = None

    def answer(self, conversation: Conversation, sampling: Sampling = GREEDY) -> Answer:
        """The next assistant text of one conversation; any number of threads may ask."""
        return self._whole(self.body(conversation, sampling))

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
        return self.body(conversation, sampling.model_copy(update={"seed": sampling.seed + index}))

    def stream(self, conversation: Conversation, *, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The next assistant text in pieces. Joined and stripped, they are what `batch` gives."""
        for delta in self.deltas(self.body(conversation, sampling)):
            if text := delta.get("content"):
                yield text

    def deltas(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What a server says piece by piece to a request (`body`), in OpenAI's words."""
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        self._num_tokens = None
        with self._server.request("POST", CHAT, body) as response:
            for event in read_events(response):
                if event.get("error"):
                    raise RemoteError(f"{self.url}: {said(event)}")
                if event.get("usage"):
                    self._num_tokens = event["usage"]["completion_tokens"]
                for choice in event.get("choices", ()):
                    yield choice["delta"]

    def num_tokens(self, answer: str) -> int | None:
        """Tokens of the answer that was streamed last, as the server counted them; None if it did not say."""
        return self._num_tokens

    def describe(self, video: Video) -> str:
        """One line about a video that will be sent."""
        info = probe_video(video.source)
        return f"{len(info.times)} frames, {info.seconds:.1f} s; the server chooses among them"

    def close(self) -> None:
        """Give the connections back."""
        self._server.close()

    def body(self, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        """The request as JSON has it."""
        if sampling.n != 1 or sampling.stop_ids or sampling.ignore_end:
            raise RemoteError(
                "n, stop_ids and ignore_end are for a local engine; a server is asked without them"
            )
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [write_message(message) for message in conversation.messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.temperature > 0:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        body |= sampling.model_dump(include=set(EXTRA), exclude_defaults=True)
        if sampling.call_schema is not None:
            raise ConfigError(
                "call_schema is for our own engine; a server holds calls to the tools it is told of"
            )
        if sampling.json_schema is not None:
            shape = {"name": "answer", "schema": json.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body

    def _whole(self, body: dict[str, Any]) -> Answer:
        return read_answer(self._server.post(CHAT, body), self.url)


def read_answer(body: Any, where: str) -> Answer:
    """The answer of a chat completion as JSON has it. RemoteError for what is none, `where` says who sent it."""
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        return Answer(
            str(choice["message"]["content"] or "").strip(),
            str(choice.get("finish_reason") or "unknown"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise RemoteError(f"{where} did not answer as OpenAI does: {str(body)[:200]}") from None
