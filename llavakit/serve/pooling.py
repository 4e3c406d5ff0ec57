"""Rewards over HTTP, in vLLM's words for models that score instead of answering: POST /pooling."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from llavakit.serve.conversation import check_bounds
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Asked, check_counts, only
from llavakit.serve.schema import ChatRequest, Message
from llavakit.serve.settings import ServeConfig


class PoolingRequest(Asked):
    """The body of POST /pooling: a conversation whose last message is the answer to be scored."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]
    facts: tuple[str, ...] | None = None  # what is known about the pictures; [] withholds them on purpose
    encoding_format: Annotated[str | None, only("float")] = None
    task: Annotated[str | None, only("classify", "reward")] = None
    add_generation_prompt: Annotated[bool | None, only(False)] = None


class PoolingEntry(BaseModel):
    object: Literal["pooling"] = "pooling"
    index: int
    data: list[float]


class PoolingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class PoolingList(BaseModel):
    """The answer of POST /pooling: one entry with one number."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PoolingEntry]
    usage: PoolingUsage


def check_pooling(request: PoolingRequest, settings: ServeConfig) -> None:
    """Refuse a request that is too large."""
    check_bounds(talk_of(request), settings)
    facts = sum(map(len, request.facts or ()))
    check_counts([("facts", "letters of facts", facts, settings.max_text_chars)])


def talk_of(request: PoolingRequest) -> ChatRequest:
    """The conversation as a chat request has it."""
    return ChatRequest(model=request.model, messages=request.messages)


def check_facts(request: PoolingRequest, *, wants: bool, has_place: bool) -> None:
    """Refuse facts that the model's prompt has no place for, and silence where it was taught with them."""
    if request.facts is None and wants:
        raise ApiError("this model was taught with facts: give them, or [] to withhold them", param="facts")
    if request.facts and not has_place:
        raise ApiError("this model's prompt has no place for facts", param="facts")
