"""Requests that were made to hurt: the tests send each once, the soak test all beside clients that mean well."""

import json
from typing import Any

from tests.serve.test_media import SVG, bomb, data_url, encoded

CHAT = "/v1/chat/completions"
MIB = 2**20
DEEP = 300  # levels, more than any reader of JSON here goes down


def bodies(model: str) -> dict[str, bytes]:
    """Bodies of a chat request, each of which is a 4xx and nobody else's trouble."""
    found = {name: json.dumps(value).encode() for name, value in _requests(model).items()}
    start = f'{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]'.encode()
    return found | {
        "nothing": b"",
        "no JSON": b"\xff\xfe\x00",
        "half a body": start,
        "not a number": start + b',"temperature":NaN}',
        "a huge number": start + b',"seed":' + b"9" * 5000 + b"}",
        "half a letter": start[:-5] + rb'"\ud800"}]}',
        "brackets": b"[" * MIB,
        "braces": b'{"a":' * MIB,
        "a name twice": start + b',"n":1,"n":99}',
        "empty messages": f'{{"model":"{model}","messages":['.encode() + b"{}," * MIB + b"{}]}",
        "numbers for messages": f'{{"model":"{model}","messages":['.encode() + b"0," * MIB + b"0]}",
        "unknown names": start + b"," + b",".join(b'"%x":0' % number for number in range(MIB // 8)) + b"}",
        "a name of a megabyte": start + b',"' + b"a" * MIB + b'":0}',
        "an endless string": start[:-4] + b"x" * MIB,
        "commas in a string without end": b'{"model":"' + b'\\",' * MIB,
    }


def heavy(model: str) -> bytes:
    """A body of 16 MiB that is no picture in the end: a few at once are more than a server has for all."""
    picture = data_url(b"\x89PNG\r\n\x1a\n" + bytes(12 * MIB))
    return json.dumps(_asked(model, _pictures(picture))).encode()


def faults(model: str) -> dict[str, bytes]:
    """Requests that are allowed, and at the edge of what a step of the engine can do: anything but a 5xx."""
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(500)}}
    hard = {
        "many optional properties": _shaped(wide),
        "no temperature to speak of": {"temperature": 1e-40, "response_format": {"type": "json_object"}},
        "no penalty to speak of": {"repetition_penalty": 1e-39, "response_format": {"type": "json_object"}},
        "a stop at once": {"stop": ["a", "e", " "]},
        "a text of spaces": {"content": " " * 20_000},
        "letters of every plane": {"content": "\u2028\ufeff\U0001f600\u202e\x00" * 50},
        "special tokens": {"content": "<|im_end|><image></s>[INST]<tool_call>" * 20},
        "a set of blanks": {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "string", "pattern": "^ *$"}}}},
        "all likely ones": {"logprobs": True, "top_logprobs": 20, "n": 4},
    }  # fmt: skip
    return {name: json.dumps(_asked(model, **{"max_tokens": 8} | how)).encode() for name, how in hard.items()}


def wires() -> dict[str, bytes]:
    """What is sent on a connection that then says nothing more."""
    start = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    return {
        "nothing": b"",
        "half a line": b"POST /v1",
        "headers that do not end": start + b"X: " + b"x" * 1000,
        "a body that does not come": start + b"Content-Length: 1000000\r\n\r\n",
        "half a body": start + b'Content-Length: 100000\r\n\r\n{"model":' + b" " * 50_000,
        "a chunk that does not come": start + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n{",
        "chunks of one byte": start + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 20_000,
        "two lengths": start + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        "a length and chunks": start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a length below nothing": start + b"Content-Length: -5\r\n\r\n",
        "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "an upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    }


def _asked(model: str, content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0} | fields


def _shaped(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def _pictures(*urls: Any) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def _requests(model: str) -> dict[str, dict[str, Any]]:
    def asked(content: Any = "hi", **fields: Any) -> dict[str, Any]:
        return _asked(model, content, **fields)

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    deep: Any = {}
    for _ in range(DEEP):
        deep = {"properties": {"a": deep}}
    places = {
        "metadata": "https://169.254.169.254/latest/meta-data", "loopback": "https://localhost:9/",
        "a number": "https://2130706433/", "hexadecimal": "https://0x7f000001/", "octal": "https://0177.0.0.1/",
        "IPv6": "https://[::1]/", "mapped": "https://[::ffff:127.0.0.1]/", "private": "https://10.0.0.1/a.png",
        "nowhere": "https://0.0.0.0/", "a user": "https://user:pass@example.com/", "a port": "https://1.1.1.1:22/",
        "plain": "http://1.1.1.1/x.png", "gopher": "gopher://127.0.0.1:70/", "no scheme": "//127.0.0.1/",
        "a file": "file:///etc/passwd", "traversal": "file:///../../etc/passwd", "dots": "file:///%2e%2e/etc/passwd",
        "a host's file": "file://evil.example/etc/passwd", "no URL": "x", "an empty URL": "",
        "blanks": "https://a b/",
        "a line break": "https://a/\r\nX: y", "no base64": "data:image/png;base64,????", "no data": "data:,",
        "a page": "data:text/html;base64,PGI+", "svg": data_url(SVG, "image/svg+xml"),
        "a bomb": data_url(bomb(60_000, 60_000)), "a long bomb": data_url(bomb(2**31 - 1, 1)),
        "cut short": data_url(encoded("png", (90, 90))[:-300]), "empty": data_url(b""),
        "only its mark": data_url(b"\x89PNG\r\n\x1a\n"), "an archive": data_url(b"PK\x03\x04" + encoded("gif")),
    }  # fmt: skip
    found = {f"picture: {name}": asked(_pictures(url)) for name, url in places.items()}
    found |= {
        "very many pixels": asked(_pictures(data_url(bomb(7000, 7000))) * 9),
        "many pictures": asked(_pictures(data_url(encoded("png"))) * 1000),
        "a long text": asked("a megabyte of words " * 50_000),
        "a longer text": asked("x" * 3_000_000),
        "deep messages": {"model": model, "messages": json.loads("[" * DEEP + "]" * DEEP)},
        "a deep schema": asked(**_shaped(deep)),
        "a schema of nothing": asked(**_shaped({"$ref": "#/x"})),
        "a kind of nothing": asked(**_shaped({"type": "nonsense"})),
        "a pattern that explodes": asked(**_shaped({"type": "string", "pattern": "(a|aa)+" * 3000 + "("})),
        "a large schema": asked(**_shaped({"enum": ["x" * 100] * 1000})),
        "many tools": asked(tools=[tool] * 2000),
        "a tool that is not there": asked(
            tools=[tool], tool_choice={"type": "function", "function": {"name": "g"}}
        ),
        "a call of megabytes": {
            "model": model,
            "messages": [{"role": "assistant", "tool_calls": [
                {"id": "1", "function": {"name": "f", "arguments": "x" * 2_500_000}}]}],
        },
        "a call that is no object": {
            "model": model,
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}]},
                {"role": "user", "content": "?"},
            ],
        },
        "very many choices": asked(n=10**6),
        "very many tokens": asked(max_tokens=10**9),
        "very many stops": asked(stop=["x"] * 10_000),
        "a long stop": asked(stop="x" * 100_000),
        "a temperature": asked(temperature=1e308),
        "below nothing": asked(max_tokens=-1),
        "another model": _asked("x" * 100_000),
        "a role": {"model": model, "messages": [{"role": "x" * 100_000, "content": "x"}]},
        "a video of a mark": asked([{"type": "video_url", "video_url": {"url": data_url(
            b"\0\0\0\x18ftypmp42", "video/mp4")}}]),
        "a video of noise": asked([{"type": "video_url", "video_url": {"url": data_url(
            b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 40, "video/webm")}}]),
    }  # fmt: skip
    return found
