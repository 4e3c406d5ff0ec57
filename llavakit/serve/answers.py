"""What is answered: OpenAI's chat completion, whole or in chunks, as typed JSON."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from llavakit.serve.choice import Chosen, Delta, FinishReason
from llavakit.version import __version__

FINGERPRINT = f"llavakit-{__version__}"


class TopToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None  # None where the token is a part of a character


class TokenLogprob(TopToken):
    top_logprobs: list[TopToken]


class Logprobs(BaseModel):
    content: list[TokenLogprob]


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[ToolCall] | None = None


class AnswerChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class PromptDetails(BaseModel):
    image_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatCompletion(BaseModel):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[AnswerChoice]
    usage: Usage


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llavakit"
    max_model_len: int  # tokens of prompt and answer together; as vLLM calls it


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model: str


class Writer:
    """Puts deltas into the two shapes. One for each request; ids and times are drawn when it is made."""

    def __init__(self, number: str, model: str) -> None:
        self.id, self.model, self.created = f"chatcmpl-{number}", model, int(time.time())
        self._calls: dict[int, int] = {}  # of each choice, so far

    def whole(self, deltas: Sequence[Delta], choices: int, usage: Usage) -> ChatCompletion:
        """The answer in one piece."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                self._choice(index, [delta for delta in deltas if delta.choice == index])
                for index in range(choices)
            ],
            usage=usage,
        )

    def opening(self, choice: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        return self._chunk(
            {"index": choice, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        )

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """What one delta adds."""
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.call is not None:
            call = self._call(delta)
            place = self._calls[delta.choice] - 1
            said["tool_calls"] = [{"index": place, **call.model_dump()}]
        choice = {"index": delta.choice, "delta": said, "finish_reason": delta.finish}
        if delta.logprobs:
            choice["logprobs"] = Logprobs(content=list(map(_logprob, delta.logprobs))).model_dump()
        return self._chunk(choice)

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk with the usage, if it was asked for."""
        return self._chunk() | {"usage": usage.model_dump()}

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": list(choices),
        }

    def _choice(self, index: int, deltas: Sequence[Delta]) -> AnswerChoice:
        calls = [self._call(delta) for delta in deltas if delta.call is not None]
        text = "".join(delta.text for delta in deltas)
        logprobs = [_logprob(token) for delta in deltas for token in delta.logprobs]
        finish = next(delta.finish for delta in deltas if delta.finish is not None)
        return AnswerChoice(
            index=index,
            message=AnswerMessage(content=text if text or not calls else None, tool_calls=calls or None),
            logprobs=Logprobs(content=logprobs) if logprobs else None,
            finish_reason=finish,
        )

    def _call(self, delta: Delta) -> ToolCall:
        assert delta.call is not None
        place = self._calls.get(delta.choice, 0)
        self._calls[delta.choice] = place + 1
        return ToolCall(
            id=f"call_{self.id.removeprefix('chatcmpl-')}_{delta.choice}_{place}",
            function=FunctionCall(name=delta.call.name, arguments=delta.call.arguments),
        )


def _logprob(chosen: Chosen) -> TokenLogprob:
    top = [TopToken(token=token.token, logprob=token.logprob, bytes=token.bytes) for token in chosen.top]
    said = chosen.said
    return TokenLogprob(token=said.token, logprob=said.logprob, bytes=said.bytes, top_logprobs=top)
