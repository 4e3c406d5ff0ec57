"""A request as a conversation and the settings of its answer.

OpenAI's messages are freer than the templates of language models: several system messages in front are one text,
messages of one role that follow each other are one turn (a line apart), what tools answered is a user's turn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llavakit.engine.sampler import Sampling
from llavakit.serve.call_forms import CALL_FORMS, CallForm, FormName
from llavakit.serve.errors import ApiError
from llavakit.serve.fields import check_counts
from llavakit.serve.schema import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    JsonFormat,
    MediaLink,
    NamedTool,
    SchemaFormat,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    VideoPart,
)
from llavakit.serve.settings import ServeConfig
from llavakit.text.calls import Call
from llavakit.text.conversation import Conversation, Image, Message, Part, Role, Text, Video, system
from llavakit.text.hermes import forced_schema
from llavakit.vision.frames import VideoConfig
from llavakit.vision.kinds import Sort


@dataclass(frozen=True)
class MediaUrl:
    """A picture or video that a message refers to; `param` says where. A long data URL stays in the body."""

    url: str | memoryview
    sort: Sort
    param: str


@dataclass(frozen=True)
class Calling:
    """How the answer may call tools: those it may call freely, or one of those in `forced`, and nothing else.

    Unless the answer is `shaped`: then JSON of the requested format may stand in the place of the call.
    """

    free: frozenset[str] = frozenset()
    forced: frozenset[str] = frozenset()
    shaped: bool = False
    only_first: bool = False
    held: bool = False  # free calls fit their schemas (`strict`)
    form: FormName = "hermes"


def check_bounds(request: ChatRequest, settings: ServeConfig) -> None:
    """Refuse a request that is too large, before anything is fetched for it."""
    request.check_model(settings)
    media = media_urls(request)
    tokens = request.max_completion_tokens or request.max_tokens or 1
    schemas = len(_json(request.model_dump(include={"tools", "response_format"}), "tools"))
    counts = (
        ("messages", "messages", len(request.messages), settings.max_messages),
        ("messages", "letters of text", sum(map(len, texts(request))), settings.max_text_chars),
        ("messages", "images", sum(medium.sort == "image" for medium in media), settings.max_images),
        ("messages", "videos", sum(medium.sort == "video" for medium in media), settings.max_videos),
        ("max_tokens", "tokens to be answered", tokens, settings.max_tokens),
        ("n", "choices", request.n or 1, settings.max_choices),
        ("tools", "bytes of tools and schemas", schemas, settings.max_schema_bytes),
    )
    check_counts(counts)


def media_urls(request: ChatRequest) -> list[MediaUrl]:
    """The pictures and videos of all messages, in order."""
    found = []
    for number, message in enumerate(request.messages):
        if not isinstance(message, UserMessage | ToolMessage) or isinstance(message.content, str):
            continue
        for place, part in enumerate(message.content or ()):
            where = f"messages[{number}].content[{place}]"
            if isinstance(part, ImagePart):
                found.append(_medium(request, part.image_url, "image", f"{where}.image_url"))
            elif isinstance(part, VideoPart):
                found.append(_medium(request, part.video_url, "video", f"{where}.video_url"))
    return found


def _medium(request: ChatRequest, link: str | MediaLink, sort: Sort, param: str) -> MediaUrl:
    url, param = (link, param) if isinstance(link, str) else (link.url, f"{param}.url")
    return MediaUrl(request.lifted.get(url, url), sort, param)


def texts(request: ChatRequest) -> Iterator[str]:
    """What was written in all messages, calls included."""
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            yield from (call.function.arguments for call in message.tool_calls or ())
            yield _thoughts(message)
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or () if isinstance(part, TextPart))


def conversation(
    request: ChatRequest, media: Sequence[bytes], default_system: str, form: CallForm = CALL_FORMS["hermes"]
) -> Conversation:
    """The request's messages, with `media` in the places of `media_urls`, calls and results in this form.

    Whether they can be said in their order is the template's business.
    """
    heads = 0
    while heads < len(request.messages) and isinstance(request.messages[heads], SystemMessage):
        heads += 1
    heard = [
        _text(message.content) for message in request.messages[:heads] if isinstance(message, SystemMessage)
    ]
    turns: list[Message] = []
    ahead, calls, newest = iter(media), dict[str, str](), dict[str, str]()  # names of what was called, by id
    told: list[tuple[str, list[Part]]] = []  # what tools answered, up to the last of them in a row
    question = ""
    for number, message in enumerate(request.messages[heads:], heads):
        role: Role = "user"
        parts: tuple[Part, ...]
        if isinstance(message, SystemMessage):
            role, parts = "system", (Text(_text(message.content)),)
        elif isinstance(message, AssistantMessage):
            newest = {call.id: call.function.name for call in message.tool_calls or ()}
            calls |= newest
            role, parts = "assistant", (Text(_answer(message, number, form)),)
        elif isinstance(message, ToolMessage):
            if message.tool_call_id is not None and message.tool_call_id not in calls:
                raise ApiError(
                    "no assistant message before it made this call", param=f"messages[{number}].tool_call_id"
                )
            name = _tool_of(message, calls, list(newest.values())[len(told) :])
            told.append((name, list(_parts(message, ahead))))
            if isinstance(_next(request, number), ToolMessage):
                continue
            parts, told = form.results(told, question), []
        else:
            parts = tuple(_parts(message, ahead))
            question = "".join(part.text for part in parts if isinstance(part, Text))
        if turns and turns[-1].role == role:
            parts = (*turns.pop().parts, Text("\n"), *parts)
        turns.append(Message(role, parts))
    head = _head(request, heard, default_system, form)
    return Conversation((*head, *turns))


def _next(request: ChatRequest, number: int) -> Any:
    """The message behind one; None behind the last."""
    return request.messages[number + 1] if number + 1 < len(request.messages) else None


def _tool_of(message: ToolMessage, calls: Mapping[str, str], waiting: Sequence[str]) -> str:
    """Whose answer it is: by the id of the call, or else of the first call that waits for one."""
    if message.tool_call_id is not None:
        return calls[message.tool_call_id]
    return waiting[0] if waiting else "tool"


def _head(request: ChatRequest, heard: list[str], default_system: str, form: CallForm) -> tuple[Message, ...]:
    """The system message, if there is something to say: with tools, the template's own text is in front of them."""
    text = "\n\n".join(heard)
    if request.tools and request.tool_choice != "none":
        # `strict` is said to the server; no model learned to be told it.
        tools = [
            tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in request.tools
        ]
        head = form.head(text if heard else default_system, tools)
        return (system(head),) if head else ()
    return (system(text),) if heard else ()


def sampling(request: ChatRequest, settings: ServeConfig) -> Sampling:
    """How to draw the answer."""
    how = request.sampling(
        request.max_completion_tokens or request.max_tokens or settings.max_tokens,
        n=request.n,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        schema=_schema(request),
        call_schema=_call_schema(request, settings.calls),
    )
    # The engine does not tell the token that ends an answer; who is asked for it reads it as any other.
    return how.model_copy(update={"ignore_end": True, "stop_ids": ()}) if request.by_numbers else how


def video_rule(request: ChatRequest, video: VideoConfig | None) -> VideoConfig | None:
    """The model's rule for videos with the frames that the request wants, if it says so."""
    asked = request.media_io_kwargs.video if request.media_io_kwargs is not None else None
    if video is None or asked is None:
        return video
    wanted: dict[str, Any] = {}
    if asked.num_frames is not None and asked.num_frames > 0:
        wanted["max_frames"] = min(asked.num_frames, video.max_frames)
    if asked.fps is not None:
        wanted |= {"fps": asked.fps, "uniform": False}
    return video.model_copy(update=wanted)


def calling(request: ChatRequest, form: FormName = "hermes") -> Calling:
    """What the answer may call, and how the model writes it."""
    names = frozenset(tool.function.name for tool in request.tools or ())
    match request.tool_choice:
        case "none":
            return Calling(form=form)
        case "required":
            return Calling(forced=names)
        case NamedTool() as named:
            return Calling(forced=frozenset((named.function.name,)))
        case _ if names and _format(request) is not None:
            return Calling(forced=names, shaped=True)
        case _:
            strict = any(tool.function.strict for tool in request.tools or ())
            first = request.parallel_tool_calls is False
            return Calling(free=names, only_first=first, held=strict, form=form)


def shaping(request: ChatRequest) -> str:
    """The field that an answer's schema is made of."""
    how = calling(request)
    return "tools" if how.forced or how.held else "response_format"


def _call_schema(request: ChatRequest, form: FormName) -> str | None:
    """What free calls are held to: one `strict` tool holds the calls of all."""
    if not calling(request).held:
        return None
    if form != "hermes":
        raise ApiError("`strict` is for models that call as Hermes does; this one does not", param="tools")
    tools = {tool.function.name: tool.function.parameters for tool in request.tools or ()}
    return _json(forced_schema(tools), "tools")


def _schema(request: ChatRequest) -> str | None:
    how, shape = calling(request), _format(request)
    if how.forced:
        tools = {
            tool.function.name: tool.function.parameters
            for tool in request.tools or ()
            if tool.function.name in how.forced
        }
        return _json(forced_schema(tools, shape if how.shaped else None), "tools")
    return None if shape is None else _json(shape, "response_format")


def _format(request: ChatRequest) -> dict[str, Any] | None:
    """The schema that a text has to keep to."""
    if isinstance(request.response_format, JsonFormat):
        return {"type": "object"}
    if isinstance(request.response_format, SchemaFormat):
        return request.response_format.json_schema.schema_
    return None


def _json(value: Any, param: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ApiError("it holds a number that JSON cannot write", param=param) from None


def _answer(message: AssistantMessage, number: int, form: CallForm) -> str:
    calls = []
    for place, call in enumerate(message.tool_calls or ()):
        said = call.function.arguments.strip() or "{}"
        try:
            arguments = json.loads(said)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ApiError(
                "arguments are the text of a JSON object",
                param=f"messages[{number}].tool_calls[{place}].function.arguments",
            )
        calls.append(Call(call.function.name, said))
    return form.said(_text(message.content), _thoughts(message), calls)


def _thoughts(message: AssistantMessage) -> str:
    """What was thought before an answer; other servers' clients may write anything there."""
    return message.reasoning_content if isinstance(message.reasoning_content, str) else ""


def _parts(message: UserMessage | ToolMessage, media: Iterator[bytes]) -> Iterator[Part]:
    """Texts that follow each other are a line apart; everything else stands as it was sent."""
    if isinstance(message.content, str):
        yield Text(message.content)
        return
    after_text = False
    for part in message.content or ():
        if isinstance(part, TextPart):
            if after_text:
                yield Text("\n")
            yield Text(part.text)
        else:
            yield Image(next(media)) if isinstance(part, ImagePart) else Video(next(media))
        after_text = isinstance(part, TextPart)


def _text(content: str | tuple[TextPart, ...] | None) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
