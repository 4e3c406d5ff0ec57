"""OpenAI's Responses: the same conversation in other words. A request becomes a chat request.

Nothing is kept between two requests: a client sends the whole conversation, as most do.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from llavakit.serve.conversation import MediaUrl, check_bounds, media_urls, texts
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import Drawn, Said, Short, Str, Unset, Wire, only
from llavakit.serve.schema import (
    NAME,
    AssistantMessage,
    CalledFunction,
    CallMade,
    ChatRequest,
    Function,
    FunctionName,
    ImagePart,
    JsonFormat,
    Message,
    NamedSchema,
    NamedTool,
    SchemaFormat,
    SystemMessage,
    TextFormat,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
)
from llavakit.serve.settings import ServeConfig

LOGPROBS = "message.output_text.logprobs"


class InputText(Said):
    type: Literal["input_text", "output_text"]
    text: Str


class InputImage(Said):
    type: Literal["input_image"]
    image_url: str
    file_id: Unset = None


InputPart = Annotated[InputText | InputImage, Field(discriminator="type")]


def _text_or_parts(value: object) -> str:
    return "text" if isinstance(value, str) else "parts"


InputContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[tuple[InputPart, ...], Field(fail_fast=True), Tag("parts")],
    Discriminator(_text_or_parts),
]


class InputMessage(Said):
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: InputContent | None


class FunctionCallItem(Said):
    type: Literal["function_call"]
    call_id: Short
    name: Short
    arguments: Str = ""


class FunctionOutputItem(Said):
    type: Literal["function_call_output"]
    call_id: Short
    output: InputContent | None


class ReasoningItem(Said):
    """Thoughts of another model's: ours reads none."""

    type: Literal["reasoning"]


def _item_kind(value: object) -> str | None:
    if isinstance(value, dict):
        return str(value.get("type", "message"))
    return value.type if isinstance(value, InputMessage | FunctionCallItem) else None


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_kind),
]


class OfFunction(Said):
    type: Literal["function"]


class FlatTool(Function, OfFunction):
    """`type` comes first, so that a tool of OpenAI's own is told as such."""


class NamedFunction(Wire):
    type: Literal["function"]
    name: Annotated[str, Field(pattern=NAME)]


class FlatSchema(NamedSchema):
    type: Literal["json_schema"]


class TextShape(Wire):
    format: Annotated[TextFormat | JsonFormat | FlatSchema, Field(discriminator="type")] | None = None
    verbosity: Annotated[str | None, only("medium")] = None


class Reasoning(Wire):
    effort: Annotated[str | None, only("none")] = None
    summary: str | None = None
    generate_summary: str | None = None


class EventOptions(Wire):
    include_obfuscation: Annotated[bool | None, only(False)] = None


def _choice_kind(value: object) -> str:
    return "word" if isinstance(value, str) else "named"


class ResponsesRequest(Drawn):
    """The body of POST /v1/responses."""

    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[tuple[Item, ...], Field(min_length=1, fail_fast=True), Tag("parts")],
        Discriminator(_text_or_parts),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[tuple[FlatTool, ...], Field(fail_fast=True)] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("word")]
            | Annotated[NamedFunction, Tag("named")],
            Discriminator(_choice_kind),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextShape | None = None
    include: Annotated[tuple[Short, ...], Field(max_length=16)] | None = (
        None  # what is not there adds nothing
    )
    stream_options: EventOptions | None = None
    max_tool_calls: Annotated[int | None, Field(ge=0)] = None  # of tools that OpenAI runs
    # Taken where they say what happens here anyway.
    truncation: Annotated[str | None, only("disabled")] = None
    background: Annotated[bool | None, only(False)] = None
    reasoning: Reasoning | None = None
    previous_response_id: Unset = None
    conversation: Unset = None
    context_management: Unset = None
    moderation: Unset = None
    prompt: Unset = None


def check_responses(request: ResponsesRequest, settings: ServeConfig) -> None:
    """Refuse what is too large, in the request's own words."""
    with in_its_words(request):
        check_bounds(as_chat(request), settings)


def responses_links(request: ResponsesRequest) -> list[MediaUrl]:
    """The pictures of all messages, in order."""
    with in_its_words(request):
        return media_urls(as_chat(request))


def responses_texts(request: ResponsesRequest) -> Iterator[str]:
    """What was written."""
    return texts(as_chat(request))


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The same as a chat request. Raises ApiError for what does not fit together."""
    named = isinstance(request.tool_choice, NamedFunction)
    tools = tuple(
        Tool(
            type="function",
            function=Function(
                name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
            ),
        )
        for tool in request.tools or ()
    )
    told = {name: value for name, value in request if name in Drawn.model_fields}
    with_logprobs = LOGPROBS in (request.include or ()) or bool(request.top_logprobs)
    try:
        return ChatRequest(
            **told,
            messages=tuple(message for _, message in _messages(request)),
            max_completion_tokens=request.max_output_tokens,
            logprobs=with_logprobs,
            top_logprobs=request.top_logprobs if with_logprobs else None,
            tools=tools or None,
            tool_choice=NamedTool(type="function", function=FunctionName(name=request.tool_choice.name))
            if isinstance(request.tool_choice, NamedFunction)
            else request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            response_format=_format(request),
        ).with_lifted(request.lifted)
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise ApiError(what, param="tool_choice" if named else None) from None


@contextmanager
def in_its_words(request: ResponsesRequest) -> Iterator[None]:
    """Errors about the chat request name the fields of the one that came."""
    try:
        yield
    except ApiError as error:
        if error.param is None:
            raise
        raise error.about(_field(error.param, request)) from None


WORDS = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
INSIDE = {
    ".tool_calls[0].function.arguments": ".arguments", ".tool_call_id": ".call_id",
}  # fmt: skip


def _field(param: str, request: ResponsesRequest) -> str:
    found = re.fullmatch(r"messages\[(\d+)\](.*)", param)
    if found is None:
        return WORDS.get(param, param)
    place, message = list(_messages(request))[int(found[1])]
    inside = INSIDE.get(found[2], found[2])
    if isinstance(message, ToolMessage):
        inside = inside.replace(".content", ".output", 1)
    return place + inside


def _messages(request: ResponsesRequest) -> Iterator[tuple[str, Message]]:
    """(where it stands in the request, the message), one for each item that says something."""
    if request.instructions is not None:
        yield "instructions", SystemMessage(role="system", content=request.instructions)
    if isinstance(request.input, str):
        yield "input", UserMessage(role="user", content=request.input)
        return
    for number, item in enumerate(request.input):
        place = f"input[{number}]"
        match item:
            case InputMessage():
                yield place, _message(item, place)
            case FunctionCallItem():
                function = CalledFunction(name=item.name, arguments=item.arguments)
                call = CallMade(id=item.call_id, function=function)
                yield place, AssistantMessage(role="assistant", tool_calls=(call,))
            case FunctionOutputItem():
                yield (
                    place,
                    ToolMessage(role="tool", content=_content(item.output), tool_call_id=item.call_id),
                )
            case ReasoningItem():
                pass


def _message(item: InputMessage, place: str) -> Message:
    if item.role == "user":
        return UserMessage(role="user", content=_content(item.content))
    said = _content(item.content)
    if isinstance(said, tuple):
        for number, part in enumerate(said):
            if isinstance(part, ImagePart):
                raise ApiError(
                    f"a picture stands in a message of the {item.role}; move it to the user's",
                    param=f"{place}.content[{number}]",
                )
        said = "\n".join(part.text for part in said if isinstance(part, TextPart))
    if item.role == "assistant":
        return AssistantMessage(role="assistant", content=said)
    return SystemMessage(role=item.role, content=said)


def _content(content: str | tuple[InputText | InputImage, ...] | None) -> str | tuple[Any, ...]:
    if content is None or isinstance(content, str):
        return content or ""
    return tuple(
        TextPart(type="text", text=part.text)
        if isinstance(part, InputText)
        else ImagePart(type="image_url", image_url=part.image_url)
        for part in content
    )


def _format(request: ResponsesRequest) -> TextFormat | JsonFormat | SchemaFormat | None:
    shape = request.text.format if request.text is not None else None
    if isinstance(shape, FlatSchema):
        return SchemaFormat(type="json_schema", json_schema=shape)
    return shape
