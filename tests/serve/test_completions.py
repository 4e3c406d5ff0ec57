"""Text completions and embeddings: texts without a template."""

import base64
from array import array

import pytest

from llavakit.engine.sampler import Sampling
from llavakit.serve.completions import plain_sample
from tests import tiny
from tests.serve.live import CONTEXT, ScriptedWorker, chunks, client, service

URL, EMBED = "/v1/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def real():
    with client() as found:
        yield found


@pytest.fixture(scope="module")
def engine():
    made = service()
    yield made.engine
    made.close()


def complete(found, prompt, **fields):
    answer = found.post(URL, json={"model": "tiny", "prompt": prompt, "temperature": 0} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def embed(found, text, **fields):
    answer = found.post(EMBED, json={"model": "tiny", "input": text} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(text: str) -> list[int]:
    return tiny.encoder().tokenizer.hf(text)["input_ids"]


def sample(text: str):
    return plain_sample(ids(text), 10**9, "prompt")


def test_a_text_goes_on_as_the_engine_goes_on(real, engine):
    prompt = "<|im_start|>user\na red"
    (said,) = engine.generate([sample(prompt)], Sampling(max_tokens=16))
    answer = complete(real, prompt)
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"][0]["text"] == tiny.encoder().tokenizer.decode(said), "blanks stay"
    assert answer["usage"]["prompt_tokens"] == len(ids(prompt)), "a special token is one token here"
    assert answer["choices"][0]["finish_reason"] == "length", "16 tokens, as OpenAI has it"
    assert complete(real, ids(prompt))["choices"] == answer["choices"]


def test_several_prompts_are_answered_in_order(real):
    prompts = ["a red", "the blue circle", "one"]
    alone = [complete(real, prompt, max_tokens=6)["choices"][0]["text"] for prompt in prompts]
    together = complete(real, prompts, max_tokens=6)
    assert [choice["text"] for choice in together["choices"]] == alone
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    by_ids = complete(real, [ids(prompt) for prompt in prompts], max_tokens=6)
    assert by_ids["choices"] == together["choices"] and by_ids["usage"] == together["usage"]
    drawn = complete(real, ["a", "a"], n=2, temperature=1.5, seed=1, max_tokens=12)["choices"]
    assert len({choice["text"] for choice in drawn}) == 4


@pytest.mark.parametrize("prompt", ["a red", ["a red", "the blue"]])
def test_streamed_and_whole_are_one_answer(real, prompt):
    fields = {"max_tokens": 12, "logprobs": 2}
    whole = complete(real, prompt, **fields)
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "stream": True} | fields
    *told, last = chunks(real.post(URL, json=body | {"stream_options": {"include_usage": True}}).text)
    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [event["choices"][0] for event in told if event["choices"][0]["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        tokens = [token for each in mine if each["logprobs"] for token in each["logprobs"]["tokens"]]
        assert tokens == choice["logprobs"]["tokens"] and len(tokens) == 12
        assert 1 <= len(choice["logprobs"]["top_logprobs"][0]) <= 2, "by their texts"


def test_stops_end_it_and_tool_calls_are_text():
    with client(ScriptedWorker(" <tool_call>{}</tool_call> END more")) as found:
        (choice,) = complete(found, "x", stop="END")["choices"]
        assert (choice["text"], choice["finish_reason"]) == (" <tool_call>{}</tool_call> ", "stop")


def test_an_embedding_is_the_mean_of_the_last_hidden_states(real, engine):
    texts = ["a red circle", "the blue square is there"]
    means = engine.embed([sample(text) for text in texts])
    answer = embed(real, texts)
    assert [each["index"] for each in answer["data"]] == [0, 1] and answer["object"] == "list"
    for found, mean_D in zip(answer["data"], means, strict=True):
        assert found["embedding"] == pytest.approx(mean_D.tolist(), abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(ids(text)) for text in texts)
    coded = embed(real, texts[0], encoding_format="base64")["data"][0]["embedding"]
    assert list(array("f", base64.b64decode(coded))) == answer["data"][0]["embedding"]
    assert embed(real, ids(texts[0]), dimensions=means.shape[1])["data"][0] == answer["data"][0]


@pytest.mark.parametrize(
    ("url", "fields", "param", "code"),
    [
        (URL, {"prompt": []}, "prompt", None),
        (URL, {"prompt": ""}, "prompt", None),
        (URL, {"prompt": [-1]}, "prompt[0]", None),
        (URL, {"prompt": [10**6]}, "prompt", None),
        (URL, {"prompt": ["a", 1]}, "prompt[1]", None),
        (URL, {"prompt": "long " * 2000}, "prompt", "context_length_exceeded"),
        (URL, {"prompt": ["a"] * 17}, "prompt", "too_large"),
        (URL, {"prompt": "a", "n": 17}, "n", "too_large"),
        (URL, {"prompt": "a", "max_tokens": 5000}, "max_tokens", "too_large"),
        (URL, {"prompt": "a", "echo": True}, "echo", None),
        (URL, {"prompt": "a", "suffix": "b"}, "suffix", None),
        (URL, {"prompt": "a", "logit_bias": {"1000000": 1}}, "logit_bias", None),
        (EMBED, {"input": ""}, "input", None),
        (EMBED, {"input": "long " * 2000}, "input", "context_length_exceeded"),
        (EMBED, {"input": "a", "dimensions": 3}, "dimensions", None),
        (EMBED, {"input": "a", "encoding_format": "int8"}, "encoding_format", None),
        (EMBED, {}, "input", "missing"),
    ],
)  # fmt: skip
def test_the_field_at_fault_is_named(real, url, fields, param, code):
    answer = real.post(url, json={"model": "tiny"} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert code in (None, error["code"])
    assert code != "context_length_exceeded" or f"maximum context length is {CONTEXT}" in error["message"]


def test_another_model_is_not_served(real):
    for url in (URL, EMBED):
        body = {"model": "gpt", "prompt": "a"} if url == URL else {"model": "gpt", "input": "a"}
        assert real.post(url, json=body).status_code == 404
