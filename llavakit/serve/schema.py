"""What may be asked: OpenAI's chat-completions request, field by field.

A field is honoured, or it is refused with its name; nothing that would change the answer is dropped. Fields that
would not (who asks, what to store) are taken; so is null in all of them, and whatever clients add inside messages.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
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


class Said(Wire):
    """Base of what stands inside messages and tools: what clients add to them says nothing to a model."""

    model_config = ConfigDict(extra="ignore")


def _or_empty(value: object) -> object:
    return "" if value is None else value


Unset = Annotated[Any, _only([])]  # OpenAI has it, this server does not
Str = Annotated[str, BeforeValidator(_or_empty)]  # null is no text
Short = Annotated[str, Field(max_length=256)]  # names and ids: they are looked up, compared and said again


class TextPart(Said):
    type: Literal["text"]
    text: Str


class MediaLink(Said):
    """`detail` is not read: a model has one rule for resolutions, the best it knows."""

    url: str


def _link_kind(value: object) -> str:
    return "bare" if isinstance(value, str) else "link"


Link = Annotated[Annotated[str, Tag("bare")] | Annotated[MediaLink, Tag("link")], Discriminator(_link_kind)]


class ImagePart(Said):
    type: Literal["image_url"]
    image_url: Link


class VideoPart(Said):
    type: Literal["video_url"]
    video_url: Link


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


class SystemMessage(Said):
    role: Literal["system", "developer"]
    content: Texts | None


class UserMessage(Said):
    role: Literal["user"]
    content: Content | None


class CalledFunction(Said):
    name: Short
    arguments: Str = ""  # JSON text; nothing is no arguments


class CallMade(Said):
    id: Short
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Said):
    """Said before, or so the client says. An empty one is an answer that was empty."""

    role: Literal["assistant"]
    content: Texts | None = None
    tool_calls: Annotated[tuple[CallMade, ...], Field(fail_fast=True)] | None = None
    # Said by a model as well, and in no form that ours could read.
    refusal: Unset = None
    audio: Unset = None
    function_call: Unset = None


class ToolMessage(Said):
    role: Literal["tool"]
    content: Content | None
    tool_call_id: Short | None = None  # the order of messages says it too


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Said):
    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None  # forced calls always follow the schema; free ones cannot be held to it


class Tool(Said):
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


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[tuple[Stop, ...], Field(max_length=16, fail_fast=True)]


class VideoLoading(Said):
    fps: Annotated[float | None, Field(gt=0)] = None
    num_frames: Annotated[int | None, Field(ge=-1)] = None  # at most; 0 or -1: as many as the model takes


class MediaLoading(Said):
    """vLLM's: how videos are cut into frames. Never more of them than the model takes."""

    video: VideoLoading | None = None


class ChatRequest(Wire):
    """The body of POST /v1/chat/completions."""

    model: Short
    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]

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
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None  # None: another draw each time
    stop: (
        Annotated[Annotated[Stop, Tag("one")] | Annotated[Stops, Tag("several")], Discriminator(_stop_kind)]
        | None
    ) = None
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=16)] | None = None
    ignore_eos: bool | None = None
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
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    prediction: dict[str, Any] | None = None  # a guess that would only make it faster
    service_tier: str | None = None
    store: bool | None = None  # nothing is stored
    media_io_kwargs: MediaLoading | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # our templates have no switches
    # Taken where they say what happens here anyway.
    modalities: Annotated[list[str] | None, _only(["text"])] = None
    reasoning_effort: Annotated[str | None, _only("none")] = None
    verbosity: Annotated[str | None, _only("medium")] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    mm_processor_kwargs: Annotated[dict[str, Any] | None, _only({})] = None
    add_generation_prompt: Annotated[bool | None, _only(True)] = None
    continue_final_message: Annotated[bool | None, _only(False)] = None
    skip_special_tokens: Annotated[bool | None, _only(True)] = None
    min_tokens: Annotated[int | None, _only(0)] = None
    audio: Unset = None
    functions: Unset = None
    moderation: Unset = None
    web_search_options: Unset = None

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
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were written."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()
