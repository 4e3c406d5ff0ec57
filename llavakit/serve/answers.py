"""What is answered: OpenAI's chat completion, whole or in chunks, as typed JSON."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from llavakit.serve.choice import Chosen, Delta, FinishReason
from llavakit.serve.fields import Generated
from llavakit.serve.usage import Usage
from llavakit.serve.writer import FINGERPRINT, CompletionsWriter, to_json


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
    scores: bool = False  # a reward model: POST /pooling, and no answers
    wants_facts: bool = False  # a reward model that was taught with facts


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model: str


@dataclass
class Gathered:
    """What one choice of an answer has said so far."""

    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[str] = field(default_factory=list)  # JSON of a TokenLogprob each
    finish: FinishReason | None = None

    def to_json(self, index: int) -> str:
        """An `AnswerChoice`."""
        text = "".join(self.text)
        message = AnswerMessage(
            content=text if text or not self.calls else None, tool_calls=self.calls or None
        )
        thoughts = {"reasoning_content": "".join(self.thoughts)} if self.thoughts else {}
        said = {"index": index, "message": message.model_dump() | thoughts, "finish_reason": self.finish}
        logprobs = f'{{"content":[{",".join(self.logprobs)}]}}' if self.logprobs else "null"
        return f'{to_json(said)[:-1]},"logprobs":{logprobs}}}'


class ChatWriter(CompletionsWriter):
    """Chat completions, whole or in chunks."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, number: str, model: str, request: Generated) -> None:
        super().__init__(number, model, with_usage=request.with_usage)
        self._calls: dict[int, int] = {}  # of each choice, so far
        self._gathered: defaultdict[int, Gathered] = defaultdict(Gathered)

    def gather(self, delta: Delta) -> None:
        """As every writer. Log-probabilities become text here, one by one."""
        gathered = self._gathered[delta.choice]
        gathered.text.append(delta.text)
        gathered.thoughts += [delta.thought] if delta.thought else []
        gathered.logprobs += (to_json(logprob(chosen)) for chosen in delta.logprobs)
        if delta.call is not None:
            gathered.calls.append(self._call(delta))
        gathered.finish = delta.finish or gathered.finish

    def whole(self, choices: int, usage: Usage) -> bytes:
        """A `ChatCompletion`."""
        return self._envelope((self._gathered[index].to_json(index) for index in range(choices)), usage)

    def opening(self, choices: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk({"index": choice, "delta": delta, "finish_reason": None}) for choice in range(choices)
        )

    def events(self, delta: Delta) -> bytes:
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.thought:
            said["reasoning_content"] = delta.thought
        if delta.call is not None:
            call = self._call(delta)
            place = self._calls[delta.choice] - 1
            said["tool_calls"] = [{"index": place, **call.model_dump()}]
        choice = {"index": delta.choice, "delta": said, "finish_reason": delta.finish}
        if delta.logprobs:
            choice["logprobs"] = {"content": list(map(logprob, delta.logprobs))}
        return self._chunk(choice)

    def _call(self, delta: Delta) -> ToolCall:
        assert delta.call is not None
        place = self._calls.get(delta.choice, 0)
        self._calls[delta.choice] = place + 1
        return ToolCall(
            id=f"call_{self.id.removeprefix('chatcmpl-')}_{delta.choice}_{place}",
            function=FunctionCall(name=delta.call.name, arguments=delta.call.arguments),
        )


def logprob(chosen: Chosen) -> dict[str, Any]:
    """A `TokenLogprob`. A long answer has a million of these, so they are not made as models and then dumped."""
    return vars(chosen.said) | {"top_logprobs": list(map(vars, chosen.top))}
