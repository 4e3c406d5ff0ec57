"""What may be asked: OpenAI's chat-completions request, field by field.

A field is honoured, or it is refused with its name; nothing that would change the answer is dropped. Fields of
OpenAI's own service that this one has no use for (who asks, what to store) are taken where they change nothing.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

NAME = r"^[a-zA-Z0-9_-]{1,64}$"  # OpenAI's rule for functions and schemas


class Wire(BaseModel):
    """Base of everything that comes in: no unknown fields, no guessing of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def _only(*allowed: object) -> AfterValidator:
    """A field that is taken only with a value that changes nothing."""

    def check(value: object) -> object:
        if value is not None and value not in allowed:
            said = " or ".join(map(repr, allowed)) or "null"
            raise ValueError(f"this server cannot honour it; leave it out or say {said}")
        return value

    return AfterValidator(check)


Unused = Annotated[Any, _only([])]  # an answer's field that is empty here, sent back to us in the history
Short = Annotated[str, Field(max_length=256)]  # names and ids: they are looked up, compared and said again


class TextPart(Wire):
    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    url: str
    # A model has one rule for resolutions, the best it knows; "low" would be another answer.
    detail: Annotated[
        Literal["auto", "low", "high", "original"] | None, _only("auto", "high", "original")
    ] = None


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(Wire):
    url: str


class VideoPart(Wire):
    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _content_kind(value: object) -> str:
    return "text" if isinstance(value, str) else "parts"


Texts = Annotated[
    Annotated[str, Tag("text")] | Annotated[tuple[TextPart, ...], Field(fail_fast=True), Tag("parts")],
    Discriminator(_content_kind),
]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[tuple[Part, ...], Field(fail_fast=True), Tag("parts")],
    Discriminator(_content_kind),
]


class SystemMessage(Wire):
    role: Literal["system", "developer"]
    content: Texts


class UserMessage(Wire):
    role: Literal["user"]
    content: Content


class CalledFunction(Wire):
    name: Short
    arguments: str  # JSON text


class CallMade(Wire):
    id: Short
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int | None, Field(ge=0)] = None  # clients that gather a stream leave it in


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: Texts | None = None
    tool_calls: Annotated[tuple[CallMade, ...], Field(fail_fast=True)] | None = None
    refusal: Unused = None
    annotations: Unused = None
    audio: Unused = None
    function_call: Unused = None
    reasoning_content: Unused = None

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantMessage":
        if not self.content and not self.tool_calls:
            raise ValueError("an assistant message needs content or tool_calls")
        return self


class ToolMessage(Wire):
    role: Literal["tool"]
    content: Texts
    tool_call_id: Short
    name: Short | None = None  # of the function; its call says it too


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Wire):
    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None  # forced calls always follow the schema; free ones cannot be held to it


class Tool(Wire):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: Short


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


class TextFormat(Wire):
    type: Literal["text"]


class JsonFormat(Wire):
    type: Literal["json_object"]


class NamedSchema(Wire):
    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None  # the schema is always kept to the letter


class SchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, _only(False)] = None


def _choice_kind(value: object) -> str:
    return "word" if isinstance(value, str) else "named"


def _stop_kind(value: object) -> str:
    return "one" if isinstance(value, str) else "several"


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[tuple[Stop, ...], Field(max_length=16, fail_fast=True)]


class ChatRequest(Wire):
    """The body of POST /v1/chat/completions."""

    model: Short
    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None  # None: 1, as OpenAI says
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=2**31 - 1)] = None  # 0 or -1: all
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None  # None: another draw each time
    stop: (
        Annotated[Annotated[Stop, Tag("one")] | Annotated[Stops, Tag("several")], Discriminator(_stop_kind)]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = (
        None
    )
    tools: Annotated[tuple[Tool, ...], Field(fail_fast=True)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("word")] | Annotated[NamedTool, Tag("named")],
            Discriminator(_choice_kind),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Not ours to use, and without effect on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Taken where they say what happens here anyway.
    store: Annotated[bool | None, _only(False)] = None
    service_tier: Annotated[str | None, _only("auto", "default")] = None
    frequency_penalty: Annotated[float | None, _only(0)] = None
    presence_penalty: Annotated[float | None, _only(0)] = None
    logit_bias: Annotated[dict[str, float] | None, _only({})] = None
    modalities: Annotated[list[str] | None, _only(["text"])] = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required' but there are no tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        formatted = self.response_format is not None and self.response_format.type != "text"
        if formatted and names and self.tool_choice != "none":
            raise ValueError("response_format and tools cannot both shape one answer; leave one out")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were written."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()
