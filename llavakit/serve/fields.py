"""What the requests of all routes have in common: how fields are read, and how an answer is drawn."""

import random
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
)

from llavakit.engine.sampler import Sampling
from llavakit.serve.errors import ApiError
from llavakit.serve.settings import ServeConfig


class Wire(BaseModel):
    """Base of everything that comes in: no unknown fields, no guessing of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def only(*allowed: object) -> AfterValidator:
    """A field that is taken only with a value that changes nothing."""

    def check(value: object) -> object:
        if value is not None and value not in allowed:
            said = " or ".join(map(repr, allowed)) or "null"
            raise ValueError(f"this server cannot honour it; leave it out or say {said}")
        return value

    return AfterValidator(check)


class Said(Wire):
    """Base of what stands inside messages and tools: what clients add to them says nothing to a model."""

    model_config = ConfigDict(extra="ignore")


def _or_empty(value: object) -> object:
    return "" if value is None else value


Unset = Annotated[Any, only([])]  # OpenAI has it, this server does not
Str = Annotated[str, BeforeValidator(_or_empty)]  # null is no text
Short = Annotated[str, Field(max_length=256)]  # names and ids: they are looked up, compared and said again


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, only(False)] = None


def _stop_kind(value: object) -> str:
    return "one" if isinstance(value, str) else "several"


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[tuple[Stop, ...], Field(max_length=16, fail_fast=True)]


class Asked(Wire):
    """The body of every request."""

    model: Short
    user: str | None = None  # not ours to use

    def check_model(self, settings: ServeConfig) -> None:
        """Refuse another model than the one that is served."""
        if self.model != settings.model_name:
            raise ApiError(
                f"model {self.model!r} is not served here; it is {settings.model_name!r}",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip


class Drawn(Asked):
    """A request for something that a model says."""

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None  # None: 1, as OpenAI says
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=2**31 - 1)] = None  # 0 or -1: all
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    logit_bias: (
        Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None
    ) = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None  # None: another draw each time
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=16)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None

    # Not ours to use, and without effect on the answer.
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None  # nothing is stored
    skip_special_tokens: Annotated[bool | None, only(True)] = None
    min_tokens: Annotated[int | None, only(0)] = None

    _lifted: Mapping[str, memoryview] = PrivateAttr(default={})

    @property
    def lifted(self) -> Mapping[str, memoryview]:
        """Long data URLs that stand in the body, by the names that stand here for them (lifting.py)."""
        return self._lifted

    def with_lifted(self, lifted: Mapping[str, memoryview]) -> Self:
        """Itself, which knows them now."""
        self._lifted = lifted
        return self

    def sampling(
        self,
        max_tokens: int,
        *,
        n: int | None = None,
        logprobs: int | None = None,
        schema: str | None = None,
        call_schema: str | None = None,
    ) -> Sampling:
        """How to draw the answer. What is left out is as OpenAI says: temperature 1, another seed each time."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            stop_ids=self.stop_token_ids or (),
            ignore_end=bool(self.ignore_eos),
            max_tokens=max_tokens,
            seed=random.getrandbits(62) if self.seed is None else self.seed,
            n=n or 1,
            logprobs=logprobs,
            json_schema=schema,
            call_schema=call_schema,
        )


class Generated(Drawn):
    """A request for several answers, which end at texts."""

    max_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1)] = None
    stop: (
        Annotated[Annotated[Stop, Tag("one")] | Annotated[Stops, Tag("several")], Discriminator(_stop_kind)]
        | None
    ) = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were written."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def with_usage(self) -> bool:
        """Whether a stream tells the usage as well."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def check_counts(counts: Iterable[tuple[str, str, int, int]]) -> None:
    """Refuse what there is too much of: (field, what it is, how many, how many at most)."""
    for param, what, count, limit in counts:
        if count > limit:
            raise ApiError(
                f"{count} {what}; this server takes at most {limit}", param=param, code="too_large"
            )
