"""A server that calls tools in OpenAI's words: what it is sent over a run, and what is made of its answers."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from llavakit.agent.forms import FORMS
from llavakit.agent.openai_calls import ToolCaller
from llavakit.agent.opening import caller
from llavakit.core.errors import ConfigError, RemoteError
from llavakit.remote import Remote
from llavakit.text.conversation import Conversation, user
from llavakit.tools.registry import Made
from tests import tiny
from tests.agent.scripted import Fake, Scripted, run_agent

REFUSED = "400"


@pytest.fixture
def server():
    """Says the deltas that a test gives, request by request; keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if says[len(asked) - 1] == REFUSED:
                self.send_error(400)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for delta in says[len(asked) - 1]:
                row = {"choices": [{"index": 0, "delta": delta}]}
                self.wfile.write(f"data: {json.dumps(row)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_):
            pass

    asked, says = [], []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    remote = Remote(f"http://127.0.0.1:{http.server_port}", model_name="m")
    yield remote, asked, says
    remote.close()
    http.shutdown()
    http.server_close()


def piece(index, arguments, name=None):
    return {
        "tool_calls": [
            {"index": index, "function": {"arguments": arguments} | ({"name": name} if name else {})}
        ]
    }


def test_two_calls_of_one_answer_are_run_and_their_results_are_messages_of_tools(server, tmp_path):
    remote, asked, says = server
    picture = tiny.picture(tmp_path / "x.png")
    note = '{"tool_call_id": "call_1", "content": "no"}'
    cut = Fake("crop", lambda arguments, desk: Made({}, (desk.add_image(picture),)))
    tools = [Fake("count", {"count": 7, "note": note}), cut]
    says += [
        [
            {"content": "I look."},
            piece(0, "", "count"),
            piece(0, '{"a": '),
            piece(1, "", "crop"),
            piece(0, '"</tool_call>"}'),
        ],
        [{"content": "There are 7. [call_1]"}],
    ]
    model = ToolCaller(remote, [tool.card for tool in tools])
    answer, _ = run_agent(tmp_path, model, tools, form=FORMS["openai"])
    assert answer.text == "There are 7. [call_1]" and answer.used == ("call_1", "call_2")
    first, second = asked
    assert [one["function"]["name"] for one in first["tools"]] == ["count", "crop"]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "<tool" not in json.dumps(first["messages"])
    said, one, two, shown = second["messages"][2:]
    assert said["content"] == "I look." and [call["id"] for call in said["tool_calls"]] == [
        "call_1",
        "call_2",
    ]
    assert said["tool_calls"][0]["function"] == {"name": "count", "arguments": '{"a": "</tool_call>"}'}
    assert (one["role"], one["tool_call_id"], json.loads(one["content"])["count"]) == ("tool", "call_1", 7)
    assert (two["role"], two["tool_call_id"]) == ("tool", "call_2")
    assert shown["role"] == "user" and shown["content"][1]["type"] == "image_url"


def test_a_call_that_is_no_json_is_told_to_the_model_and_one_that_is_none_ends_in_an_error(server, tmp_path):
    remote, asked, says = server
    tools = [Fake("count", {"count": 7})]
    says += [[piece(0, "{broken", "count")], [{"content": "I do not know."}]]
    answer, _ = run_agent(tmp_path, ToolCaller(remote, [tools[0].card]), tools, form=FORMS["openai"])
    assert answer.text.startswith("I do not know.")
    assert asked[1]["messages"][-1]["content"].startswith("Error: not a call of a tool that is here")
    says += [[{"tool_calls": [{"function": {"name": 3}}]}]]
    with pytest.raises(RemoteError, match="none of OpenAI's"):
        list(ToolCaller(remote, []).stream(Conversation((user("x"),))))


def edges_again(server, *last):
    """A run that may ask once: the requests, and what the answer is when `last` is said at its end."""
    remote, asked, says = server
    says += [[piece(0, "{}", "edges")], *last]
    return [Fake("edges", {"sure": 3})], remote, asked


def test_the_last_answer_is_asked_for_without_calls(server, tmp_path):
    tools, remote, asked = edges_again(server, [{"content": "Three. [call_1]"}])
    model = ToolCaller(remote, [tools[0].card])
    answer, _ = run_agent(tmp_path, model, tools, form=FORMS["openai"], budget={"steps": 1})
    assert answer.text == "Three. [call_1]\n[stopped: 1 steps are used up]"
    assert [body.get("tool_choice") for body in asked] == [None, "none"]
    assert asked[0]["tools"] == asked[1]["tools"]
    assert "No tool can be called any more" in json.dumps(asked[1]["messages"][-1])


def test_a_server_that_refuses_the_choice_is_asked_without_tools(server, tmp_path):
    tools, remote, asked = edges_again(server, REFUSED, [{"content": "Three. [call_1]"}])
    model = ToolCaller(remote, [tools[0].card])
    answer, _ = run_agent(tmp_path, model, tools, form=FORMS["openai"], budget={"steps": 1})
    assert answer.plain == "Three."
    sent = [{"tools", "tool_choice"} & body.keys() for body in asked]
    assert sent == [{"tools"}, {"tools", "tool_choice"}, set()]


def test_a_server_that_calls_all_the_same_has_given_no_answer(server, tmp_path):
    tools, remote, _ = edges_again(server, [piece(0, "{}", "edges")])
    model = ToolCaller(remote, [tools[0].card])
    answer, _ = run_agent(tmp_path, model, tools, form=FORMS["openai"], budget={"steps": 1})
    assert answer.plain == 'edges gave {"sure": 3}' and len(tools[0].asked) == 1
    assert answer.missing == ("an answer: the model gave none",)


def test_the_form_is_for_servers(server):
    with pytest.raises(ConfigError, match="the form openai is for a server"):
        caller(Scripted(), "openai", [])
    assert isinstance(caller(server[0], "openai", []), ToolCaller)
