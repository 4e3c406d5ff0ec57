"""Real clients of OpenAI's API against a server: python clients.py URL PICTURE prints what each of them did.

Runs in an environment of its own (install.sh clients FOLDER); nothing of llavakit is imported. One JSON line for
each client: its name, its version, and what it asked and had answered. A client that fails ends the program.
"""

import base64
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}

from pydantic import BaseModel, ConfigDict

URL, PICTURE = sys.argv[1], Path(sys.argv[2])
DATA = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
MODEL, KEY = "tiny", "none"
LONG = 4000  # tokens: a model of random weights likes blanks
PARTS = [
    {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
    {"type": "text", "text": "What color?"},
]
MESSAGES = [{"role": "user", "content": PARTS}]


class Color(StrEnum):
    red = "red"
    blue = "blue"


class Closed(BaseModel):
    """A model of random weights would go on with more fields for ever."""

    model_config = ConfigDict(extra="forbid")


class Shape(Closed):
    color: Color
    round: bool


class Scene(Closed):
    """What is in a picture; its schema has $defs and $ref."""

    front: Shape
    behind: Shape


def ask_openai() -> list[str]:
    from openai import OpenAI, pydantic_function_tool

    client = OpenAI(base_url=URL, api_key=KEY)
    assert client.models.list().data[0].id == MODEL
    how = {"model": MODEL, "temperature": 0}
    whole = client.chat.completions.create(messages=MESSAGES, max_tokens=8, **how).choices[0].message.content
    stream = client.chat.completions.create(messages=MESSAGES, max_tokens=8, stream=True, **how)
    assert "".join(event.choices[0].delta.content or "" for event in stream) == whole
    parsed = client.chat.completions.parse(messages=MESSAGES, response_format=Scene, max_tokens=LONG, **how)
    assert isinstance(parsed.choices[0].message.parsed, Scene)
    tool = pydantic_function_tool(Scene)
    called = client.chat.completions.parse(
        messages=MESSAGES, tools=[tool], tool_choice="required", max_tokens=LONG, **how
    )
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Scene)
    told = [{"role": "user", "content": [
        {"type": "input_image", "image_url": DATA}, {"type": "input_text", "text": "What color?"}]}]  # fmt: skip
    response = client.responses.create(input=told, max_output_tokens=8, **how)
    assert response.output_text == whole
    with client.responses.stream(input=told, max_output_tokens=8, **how) as events:
        *_, last = events
        assert last.response.output_text == whole
    scene = client.responses.parse(input=told, text_format=Scene, max_output_tokens=LONG, **how)
    assert isinstance(scene.output_parsed, Scene)
    assert client.completions.create(prompt="a", max_tokens=4, **how).choices[0].text
    assert client.embeddings.create(model=MODEL, input=["a", "b"]).data[1].embedding
    return ["chat, stream, parse, tools", "responses, stream, parse", "completions", "embeddings"]


def ask_langchain() -> list[str]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    llm = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, temperature=0, max_tokens=LONG)
    short = llm.bind(max_tokens=8)
    whole = short.invoke(MESSAGES).text
    assert "".join(chunk.text for chunk in short.stream(MESSAGES)) == whole
    for method in ("json_schema", "function_calling"):
        assert isinstance(llm.with_structured_output(Scene, method=method).invoke(MESSAGES), Scene)
    new = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_tokens=8, use_responses_api=True)
    assert new.invoke(MESSAGES).text
    vectors = OpenAIEmbeddings(model=MODEL, base_url=URL, api_key=KEY, check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["a", "b"])) == 2
    return ["chat, stream, structured output by schema and by tool", "responses", "embeddings"]


def ask_litellm() -> list[str]:
    import litellm

    how = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}
    whole = (
        litellm.completion(messages=MESSAGES, max_tokens=8, temperature=0, **how).choices[0].message.content
    )
    stream = litellm.completion(messages=MESSAGES, max_tokens=8, temperature=0, stream=True, **how)
    assert "".join(event.choices[0].delta.content or "" for event in stream).strip() == whole
    shaped = litellm.completion(messages=MESSAGES, response_format=Scene, max_tokens=LONG, **how)
    Scene.model_validate_json(shaped.choices[0].message.content)
    try:
        litellm.completion(messages=[{"role": "user", "content": "long " * 5000}], **how)
        raise AssertionError("a prompt beyond the context was answered")
    except litellm.ContextWindowExceededError:
        pass
    assert litellm.embedding(input=["a"], **how).data[0]["embedding"]
    return ["chat, stream, format", "its own error for prompts beyond the context", "embeddings"]


def ask_instructor() -> list[str]:
    import instructor
    from openai import OpenAI

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY), mode=mode)
        scene = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, response_model=Scene, max_tokens=LONG, max_retries=0
        )
        assert isinstance(scene, Scene)
    return ["models by tool and by schema"]


def ask_pydantic_ai() -> list[str]:
    from pydantic_ai import Agent, BinaryContent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=URL, api_key=KEY)
    picture = BinaryContent(PICTURE.read_bytes(), media_type="image/png")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(MODEL, provider=provider, settings={"max_tokens": LONG})
        for output in (Scene, NativeOutput(Scene)):
            found = Agent(model, output_type=output).run_sync(["What is there?", picture])
            assert isinstance(found.output, Scene)
        assert isinstance(Agent(model).run_sync(["What color?", picture]).output, str)
    return ["text, output by tool and by schema", "the same by responses"]


def ask_llama_index() -> list[str]:
    from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(
        model=MODEL,
        api_base=URL,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=LONG,
    )
    asked = [ChatMessage(role="user", blocks=[ImageBlock(path=PICTURE), TextBlock(text="What color?")])]
    assert llm.chat(asked).message.content is not None
    assert "".join(chunk.delta or "" for chunk in llm.stream_chat(asked)) is not None
    assert isinstance(llm.as_structured_llm(Scene).chat(asked).raw, Scene)
    return ["chat, stream, structured output by tool"]


def ask_lmms_eval() -> list[str]:
    """The requests of its OpenAI models, of old and new names, and VLMEvalKit's."""
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key=KEY)
    picture, words = PARTS
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    for fields in (
        {"messages": MESSAGES, "max_tokens": 8, "temperature": 0},
        {"messages": MESSAGES, "max_completion_tokens": 8, "response_format": {"type": "text"}},
        {"messages": MESSAGES, "max_tokens": 8, "n": 1, "temperature": 0},
        {"messages": MESSAGES, "max_tokens": 8, "extra_body": {
            "chat_template_kwargs": {"enable_thinking": False}, "media_io_kwargs": {"video": {"num_frames": 4}}}},
        {"messages": [
            *MESSAGES, {"role": "assistant", "content": ""}, {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "name": "look", "content": [words, picture]},
        ], "tools": tools, "tool_choice": "auto", "max_tokens": 8, "temperature": 0},
    ):  # fmt: skip
        assert client.chat.completions.create(model=MODEL, **fields).choices[0].message
    return ["requests of lmms-eval and VLMEvalKit"]


CLIENTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "openai (Python)": ("openai", ask_openai),
    "langchain-openai": ("langchain-openai", ask_langchain),
    "litellm": ("litellm", ask_litellm),
    "instructor": ("instructor", ask_instructor),
    "pydantic-ai": ("pydantic-ai-slim", ask_pydantic_ai),
    "llama-index": ("llama-index-llms-openai-like", ask_llama_index),
    "lmms-eval, VLMEvalKit": ("openai", ask_lmms_eval),
}

if __name__ == "__main__":
    for name, (package, ask) in CLIENTS.items():
        did = ask()
        print(json.dumps({"client": name, "version": version(package), "did": did}), flush=True)
