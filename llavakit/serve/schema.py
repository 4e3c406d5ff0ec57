"""What may be asked: OpenAI's chat-completions request, field by field.

A field is honoured, or it is refused with its name; nothing that would change the answer is dropped. Fields that
would not (who asks, what to store) are taken; so is null in all of them, and whatever clients add inside messages.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from llavakit.serve.fields import Generated, Said, Short, Str, Unset, Wire, only

NAME = r"^[a-zA-Z0-9_-]{1,64}$"  # OpenAI's rule for functions and schemas


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
    reasoning_content: Any = None  # thoughts as our answers tell them: texts of models that say them again
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
    strict: bool | None = None  # forced calls always follow the schema; free ones where it is true


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


def _choice_kind(value: object) -> str:
    return "word" if isinstance(value, str) else "named"


class VideoLoading(Said):
    fps: Annotated[float | None, Field(gt=0)] = None
    num_frames: Annotated[int | None, Field(ge=-1)] = None  # at most; 0 or -1: as many as the model takes


class MediaLoading(Said):
    """vLLM's: how videos are cut into frames. Never more of them than the model takes."""

    video: VideoLoading | None = None


class ChatRequest(Generated):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]

    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    return_tokens_as_token_ids: bool | None = None  # vLLM's: log-probabilities name tokens by number
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
    add_generation_prompt: Annotated[bool | None, only(True)] = None
    continue_final_message: Annotated[bool | None, only(False)] = None
    prediction: dict[str, Any] | None = None  # a guess that would only make it faster

    media_io_kwargs: MediaLoading | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # our templates have no switches
    # Taken where they say what happens here anyway.
    modalities: Annotated[list[str] | None, only(["text"])] = None
    reasoning_effort: Annotated[str | None, only("none")] = None
    verbosity: Annotated[str | None, only("medium")] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    mm_processor_kwargs: Annotated[dict[str, Any] | None, only({})] = None
    audio: Unset = None
    functions: Unset = None
    moderation: Unset = None
    web_search_options: Unset = None

    @property
    def by_numbers(self) -> bool:
        """Whether the tokens of the answer are asked for, its end included (token_ids.py)."""
        return bool(self.logprobs and self.return_tokens_as_token_ids)

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
