"""OpenAI's text completions: prompts as they stand, without a template, and what the model goes on with."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.serve.choice import Chosen, Delta, FinishReason
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Asked, Generated, TokenId, Unset, check_counts, only
from llavakit.serve.settings import ServeConfig
from llavakit.serve.usage import Usage
from llavakit.serve.writer import FINGERPRINT, CompletionsWriter, to_json
from llavakit.text.tokenizer import Tokenizer

LENGTH = 16  # tokens of an answer if nobody says, as OpenAI has it


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    first = value[0] if isinstance(value, list | tuple) and value else None
    return "ids" if isinstance(first, int) else "several ids" if isinstance(first, list | tuple) else "texts"


Ids = Annotated[tuple[TokenId, ...], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[tuple[str, ...], Field(min_length=1, fail_fast=True), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[tuple[Ids, ...], Field(fail_fast=True), Tag("several ids")],
    Discriminator(_kind),
]


class CompletionRequest(Generated):
    """The body of POST /v1/completions."""

    prompt: Prompt
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    echo: Annotated[bool | None, only(False)] = None
    best_of: Annotated[int | None, only(1)] = None
    suffix: Unset = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All of them, however they were written."""
        return several(self.prompt)


def several(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    """The texts and lists of ids in a `Prompt`."""
    return (prompt,) if _kind(prompt) in ("text", "ids") else tuple(prompt)


def texts(prompts: Iterable[str | tuple[int, ...]]) -> Iterator[str]:
    """Those that are texts."""
    return (prompt for prompt in prompts if isinstance(prompt, str))


def completion_texts(request: CompletionRequest) -> Iterator[str]:
    """What was written."""
    return texts(request.prompts)


def check_prompts(
    request: Asked, prompts: tuple[str | tuple[int, ...], ...], param: str, settings: ServeConfig
) -> None:
    """Refuse another model, and too much text."""
    request.check_model(settings)
    letters = sum(map(len, texts(prompts)))
    check_counts([(param, "letters of text", letters, settings.max_text_chars)])


def check_completion(request: CompletionRequest, settings: ServeConfig) -> None:
    """Refuse a request that is too large."""
    check_prompts(request, request.prompts, "prompt", settings)
    choices = len(request.prompts) * (request.n or 1)
    check_counts(
        (
            ("prompt" if len(request.prompts) > 1 else "n", "choices", choices, settings.max_choices),
            ("max_tokens", "tokens to be answered", request.max_tokens or 1, settings.max_tokens),
        )
    )


def plain_sample(ids: Iterable[int], vocabulary: int, param: str) -> Sample:
    """Token ids as a prompt. An ApiError for one that is not among the `vocabulary`."""
    ids = tuple(ids)
    beyond = next((token for token in ids if token >= vocabulary), None)
    if beyond is not None:
        raise ApiError(f"there is no token {beyond}; the model has {vocabulary}", param=param)
    return Sample(ids, (0.0,) * len(ids), (Segment(0, len(ids)),))


def prompt_ids(prompt: str | tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """A text as its tokens. All of it is the client's, so the names of special tokens in it are those tokens."""
    return tuple(tokenizer.hf(prompt)["input_ids"]) if isinstance(prompt, str) else prompt


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """The answer of POST /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[CompletionChoice]
    usage: Usage


@dataclass
class _Gathered:
    text: list[str] = field(default_factory=list)
    tokens: list[Chosen] = field(default_factory=list)
    finish: FinishReason | None = None


class CompletionWriter(CompletionsWriter):
    """Text completions, whole or in chunks."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, number: str, model: str, request: CompletionRequest) -> None:
        super().__init__(number, model, with_usage=request.with_usage)
        self._gathered: defaultdict[int, _Gathered] = defaultdict(_Gathered)
        self._offsets: dict[int, int] = {}  # letters of tokens so far, of each choice

    def gather(self, delta: Delta) -> None:
        gathered = self._gathered[delta.choice]
        gathered.text.append(delta.text)
        gathered.tokens += delta.logprobs
        gathered.finish = delta.finish or gathered.finish

    def whole(self, choices: int, usage: Usage) -> bytes:
        told = []
        for index in range(choices):
            found = self._gathered[index]
            choice = self._choice(index, "".join(found.text), tuple(found.tokens), found.finish)
            told.append(to_json(choice))
        return self._envelope(told, usage)

    def opening(self, choices: int) -> bytes:
        return b""

    def events(self, delta: Delta) -> bytes:
        return self._chunk(self._choice(delta.choice, delta.text, delta.logprobs, delta.finish))

    def _choice(
        self, index: int, text: str, tokens: tuple[Chosen, ...], finish: FinishReason | None
    ) -> dict[str, Any]:
        logprobs = None
        if tokens:
            offsets = []
            for token in tokens:
                offsets.append(self._offsets.get(index, 0))
                self._offsets[index] = offsets[-1] + len(token.said.token)
            logprobs = {
                "tokens": [token.said.token for token in tokens],
                "token_logprobs": [token.said.logprob for token in tokens],
                "top_logprobs": [{each.token: each.logprob for each in token.top} for token in tokens],
                "text_offset": offsets,
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
