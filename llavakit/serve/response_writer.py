"""An answer in the form of OpenAI's Responses: a list of items, whole or told as it grows."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from llavakit.serve.answers import logprob
from llavakit.serve.choice import Delta, FinishReason
from llavakit.serve.errors import ApiError
from llavakit.serve.responses import ResponsesRequest
from llavakit.serve.usage import Usage
from llavakit.serve.writer import Event, Writer, server_sent, to_json
from llavakit.text.calls import Call


class Response(BaseModel):
    """The answer of POST /v1/responses. `output` has items of the types `message` and `function_call`."""

    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None


class ResponseWriter(Writer):
    """Grows the items of one answer; whoever streams hears of every change."""

    prefix = "resp"

    def __init__(self, number: str, model: str, request: ResponsesRequest) -> None:
        super().__init__(number, model)
        self._request, self._number = request, number
        self._items: list[Event] = []  # complete
        self._text: list[str] | None = None  # of the message that is being said
        self._logprobs: list[Event] = []
        self._finish: FinishReason | None = None
        self._sequence = 0

    def gather(self, delta: Delta) -> None:
        for _ in self._take(delta):
            pass

    def whole(self, choices: int, usage: Usage) -> bytes:
        return to_json(self._response(usage)).encode()

    def opening(self, choices: int) -> bytes:
        kinds = ("response.created", "response.in_progress")
        return _named(self._event(kind, response=self._state("in_progress")) for kind in kinds)

    def events(self, delta: Delta) -> bytes:
        return _named(self._take(delta))

    def closing(self, usage: Usage) -> bytes:
        response = self._response(usage)
        return _named([self._event(f"response.{response['status']}", response=response)])

    def failure(self, error: ApiError) -> bytes:
        said = {"code": error.code or "server_error", "message": str(error)}
        return _named([self._event("response.failed", response=self._state("failed") | {"error": said})])

    def _take(self, delta: Delta) -> Iterator[Event]:
        if delta.text:
            if self._text is None:
                yield from self._begin_message()
            assert self._text is not None
            self._text.append(delta.text)
            yield self._event("response.output_text.delta", **self._place(), delta=delta.text, logprobs=[])
        self._logprobs += map(logprob, delta.logprobs)
        if delta.call is not None:
            yield from self._end_message()
            yield from self._say_call(delta.call)
        if delta.finish is not None:
            self._finish = delta.finish
            if self._text is None and not self._items:  # an empty answer is a message too
                yield from self._begin_message()
            yield from self._end_message()

    def _begin_message(self) -> Iterator[Event]:
        self._text = []
        item = self._message("in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        yield self._event("response.content_part.added", **self._place(), part=self._part())

    def _end_message(self) -> Iterator[Event]:
        if self._text is None:
            return
        status = "incomplete" if self._finish == "length" else "completed"
        item, place = self._message(status), self._place()
        (part,) = item["content"]
        logprobs = part["logprobs"]
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=logprobs)
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._text, self._logprobs = None, []

    def _say_call(self, call: Call) -> Iterator[Event]:
        index = len(self._items)
        item = {
            "type": "function_call", "id": f"fc_{self._number}_{index}", "call_id": f"call_{self._number}_{index}",
            "name": call.name, "arguments": "", "status": "in_progress",
        }  # fmt: skip
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=item)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event(
            "response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments
        )
        item = item | {"arguments": call.arguments, "status": "completed"}
        yield self._event("response.output_item.done", output_index=index, item=item)
        self._items.append(item)

    def _message(self, status: str) -> Event:
        return {
            "type": "message", "id": self._message_id, "role": "assistant", "status": status,
            "content": [self._part()],
        }  # fmt: skip

    def _part(self) -> Event:
        text = "".join(self._text or ())
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}

    @property
    def _message_id(self) -> str:
        return f"msg_{self._number}_{len(self._items)}"

    def _place(self) -> Event:
        return {"item_id": self._message_id, "output_index": len(self._items), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._sequence = self._sequence, self._sequence + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _response(self, usage: Usage) -> Event:
        """Complete, or cut short by the limit of tokens."""
        told = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        }
        if self._finish == "length":
            why = {"reason": "max_output_tokens"}
            return self._state("incomplete") | {"usage": told, "incomplete_details": why}
        return self._state("completed") | {"usage": told}

    def _state(self, status: str) -> Event:
        said = self._request.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": said.get("instructions"),
            "max_output_tokens": said.get("max_output_tokens"),
            "model": self.model,
            "output": list(self._items),
            "parallel_tool_calls": said.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "store": False,
            "temperature": said.get("temperature", 1.0),
            "text": said.get("text", {"format": {"type": "text"}}),
            "tool_choice": said.get("tool_choice", "auto"),
            "tools": said.get("tools", []),
            "top_p": said.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None,
            "metadata": said.get("metadata", {}),
        }


def _named(events: Iterable[Event]) -> bytes:
    """Events as they are sent, each with its name in front."""
    return b"".join(f"event: {event['type']}\n".encode() + server_sent(event) for event in events)
