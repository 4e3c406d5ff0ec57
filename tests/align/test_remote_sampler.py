"""Rounds whose answers a server draws: `llavakit serve` in a process, and one that speaks as vLLM does."""

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read_tensors

from llavakit.align.experience import read_experiences
from llavakit.align.opening import open_policy
from llavakit.align.remote_sampler import RemoteSampler
from llavakit.core import config as settings
from llavakit.core.errors import ConfigError, RemoteError
from llavakit.engine.engine import Engine
from llavakit.model import checkpoint as checkpoints
from llavakit.recipes import RECIPES
from llavakit.train.loop import train
from llavakit.train.metrics import read_metrics
from llavakit.wire import FORGET
from tests import tiny
from tests.align.test_rounds import policy_run, rows_and_weights
from tests.serve.live import client, post, process

LORA = {"model.lora": "{r: 4}", "train": "[language]", "optim.lr": 0.05}


def remote_run(folder, url, name="remote", **changes):
    """Rounds of one step with a large rate, so that old weights would be seen."""
    more = {"policy.rollouts": f"{{url: {url}}}", "policy.minibatches": 1, "optim.steps": 2, "optim.lr": 0.02}
    return policy_run(folder, name, **{**more, **changes})


def said(run):
    """(ids, text, how it ended) of every answer of all rounds."""
    files = sorted((run.out / "rollouts").glob("*.jsonl"))
    found = [each.rollout for file in files for each in read_experiences(file)]
    return [(each.ids, each.text, each.finish) for each in found]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of the start that the runs share: its address, and the folder of both."""
    folder = tmp_path_factory.mktemp("rollouts")
    policy_run(folder)  # writes the start
    with process(folder / "start", f"reload_root={folder}") as (url, _):
        yield url, folder


@pytest.mark.parametrize("changes", [{}, LORA], ids=["full", "lora"])
def test_rounds_over_http_are_those_of_the_engine_here(server, changes, monkeypatch):
    """The same tokens, and after a step the same with the new weights: full tuning, and adapters merged."""
    url, folder = server
    most_there, refresh = [], RemoteSampler.refresh

    def watch(self):
        refresh(self)
        most_there.append(len([path for path in self.folder.iterdir() if "merged" not in path.name]))

    monkeypatch.setattr(RemoteSampler, "refresh", watch)
    name = "lora" if changes else "full"
    here = remote_run(folder, url, f"{name}-here", **{**changes, "policy.rollouts": "null"})
    there = remote_run(folder, url, f"{name}-there", **changes)
    train(here, policy=open_policy)
    train(there, policy=open_policy)
    assert said(there) == said(here) and len(said(there)) == 24
    (mine, mine_weights), (theirs, their_weights) = rows_and_weights(there), rows_and_weights(here)
    assert all(row["drift"] < 1e-4 for row in mine)
    assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in theirs], abs=1e-5)
    for key, tensor in their_weights.items():
        torch.testing.assert_close(mine_weights[key], tensor, rtol=1e-3, atol=1e-5)
    assert (
        most_there == [1, 1] and not (there.out / "weights").exists()
    )  # of one round at a time, and none in the end


def test_a_run_may_go_on_with_a_server_at_another_place():
    run = RECIPES["grpo"]()
    one, other, third = (
        settings.override(run, [f"policy.rollouts={{url: 'http://{host}', at_once: {count}, reload: {how}}}"])
        for host, count, how in (
            ("a:8000", 8, "directory"),
            ("b:8001", 4, "directory"),
            ("a:8000", 8, "lora"),
        )
    )
    assert one.changed(other) == []
    assert one.changed(third) == ["policy.rollouts.reload"]


def test_a_server_that_keeps_its_old_weights_raises_the_alarm(server, monkeypatch, capsys):
    url, folder = server
    monkeypatch.setattr(RemoteSampler, "_send", lambda self, path: None)
    run = remote_run(folder, url, "stale", **{"optim.lr": 0.2})
    before = remote_run(folder, url, "again", **{"optim.steps": 1})
    monkeypatch.undo()
    train(before, policy=open_policy)  # the start's weights are there again
    monkeypatch.setattr(RemoteSampler, "_send", lambda self, path: None)
    train(run, policy=open_policy)
    first, second = [row["drift"] for row in read_metrics(run.out / "metrics.jsonl")]
    assert first < 1e-4 and second > 0.1
    assert "ALARM: sampler and learner differ" in capsys.readouterr().out


def test_weights_come_from_below_the_root_alone(tmp_path):
    checkpoints.save(tiny.checkpoint(), tmp_path / "in" / "new")
    checkpoints.save(tiny.checkpoint(), tmp_path / "out")

    def load(path):
        return {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}

    with client(reload_root=tmp_path / "in") as http:
        refused = http.post("/collective_rpc", json=load(tmp_path / "in" / ".." / "out"))
        assert refused.status_code == 403 and "from below" in refused.json()["error"]["message"]
        assert http.post("/collective_rpc", json=load(tmp_path / "in" / "new")).json() == {"results": [None]}
        gone = http.post("/collective_rpc", json=load(tmp_path / "in" / "gone"))
        assert gone.status_code == 400 and "gone" in gone.json()["error"]["message"]
        other = http.post("/collective_rpc", json={"method": "sleep", "kwargs": {"weights_path": "x"}})
        assert other.status_code == 400 and other.json()["error"]["param"] == "method"
        assert [http.post(path, json={}).json() for path in FORGET] == [{"success": True}] * 2
    with client() as http:
        assert http.post("/collective_rpc", json=load(tmp_path / "in" / "new")).status_code == 404


def test_a_server_tells_tokens_by_number_and_the_end_too():
    """As vLLM does: the answer's text is the same, and its tokens are those of the engine."""
    fields = {"max_tokens": 12, "logprobs": True, "temperature": 1, "seed": 3}
    with client() as http:
        plain = post(http, **fields)["choices"][0]
        told = post(http, **fields, return_tokens_as_token_ids=True)["choices"][0]
        tokens = [int(each["token"].removeprefix("token_id:")) for each in told["logprobs"]["content"]]
        how = fields | {"return_tokens_as_token_ids": True, "stop_token_ids": tokens[1:2]}
        ended = post(http, **how)["choices"][0]
    assert told["message"] == plain["message"]
    short = [each["logprob"] for each in plain["logprobs"]["content"]]
    assert [each["logprob"] for each in told["logprobs"]["content"]][: len(short)] == pytest.approx(short)
    end = tokens.index(tokens[1]) + 1
    assert [each["token"] for each in ended["logprobs"]["content"]] == [f"token_id:{t}" for t in tokens[:end]]
    assert ended["finish_reason"] == "stop"


class Fake:
    """Answers in the shapes of vLLM 0.32, with tokens as `say` gives them: (ids, how it says that it ended)."""

    def __init__(self, say, tokens) -> None:
        self.say, self.tokens, self.asked, self.controls = say, tokens, [], []
        self.status, self.forgets, self.by_number = 200, True, True
        self.files = {}  # of the newest weights, as they were when it was told of them

    def answer(self, path, body):
        if path != "/v1/chat/completions":
            self.controls.append((path, body))
            if where := body.get("lora_path") or body.get("kwargs", {}).get("weights_path"):
                beside = Path(where).parent if "lora_path" in body else Path(where)
                self.files = {
                    str(os.path.relpath(file, where)): file.read_bytes()
                    for file in beside.rglob("*")
                    if file.is_file()
                }
            if path in FORGET:
                return 200, {"success": self.forgets}
            return self.status, {"results": [None]} if self.status == 200 else {"detail": "Not Found"}
        self.asked.append(body)
        choices = []
        for index in reversed(range(body["n"])):  # their order is nobody's promise
            ids, finish = self.say(index)
            names = [f"token_id:{token}" if self.by_number else "x" for token in ids]
            content = [{"token": n, "logprob": -0.5, "bytes": None, "top_logprobs": []} for n in names]
            message = {"role": "assistant", "content": "text that nobody reads"}
            said = {"message": message, "logprobs": {"content": content}, "finish_reason": finish}
            choices.append({"index": index, **said})
        usage = {"prompt_tokens": self.tokens(body), "completion_tokens": 1}
        return 200, {"choices": choices, "usage": usage}


@contextmanager
def speaking(fake):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*fake.answer(self.path, body))

        def do_GET(self):
            self._send(200, {"data": [{"id": "base"}]})

        def _send(self, status, answer):
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def fake(monkeypatch):
    """One whose prompts have the tokens that they have here."""
    counts, end = {}, next(iter(tiny.encoder().tokenizer.stop_ids(tiny.encoder().template)))
    ask = RemoteSampler._ask

    def counted(self, prompt, seed):
        counts[seed] = prompt.sample.num_tokens
        return ask(self, prompt, seed)

    monkeypatch.setattr(RemoteSampler, "_ask", counted)
    made = Fake(lambda index: ([40 + index, 50, end], "stop"), lambda body: counts[body["seed"]])
    made.end = end
    return made


def test_vllm_is_asked_in_its_words_and_told_of_new_weights(tmp_path, fake):
    with speaking(fake) as url:
        run = remote_run(tmp_path, url, **{"policy.temperature": 0.7, "policy.drift": 100})
        train(run, policy=open_policy)
    [body, *_] = fake.asked
    assert len(fake.asked) == 8 and body["model"] == "base" and body["n"] == 3 and body["temperature"] == 0.7
    assert body["logprobs"] and body["return_tokens_as_token_ids"]
    assert body["top_p"] == 1 and body["top_k"] == -1
    contents = [each["messages"][-1]["content"] for each in fake.asked]
    kinds = {part["type"] for content in contents if isinstance(content, list) for part in content}
    assert kinds == {"image_url", "text"}
    assert {ids for ids, _, _ in said(run)} == {(40 + index, 50, fake.end) for index in range(3)}
    assert {finish for *_, finish in said(run)} == {"stop"}
    assert [path for path, _ in fake.controls] == ["/collective_rpc", *FORGET] * 2
    paths = [body["kwargs"]["weights_path"] for path, body in fake.controls if path == "/collective_rpc"]
    assert len(set(paths)) == 2 and not any(Path(path).exists() for path in paths)
    tensors = read_tensors(fake.files["model.safetensors"])
    assert any(key.startswith("language_model.model.layers.0.") for key in tensors)


def test_vllm_gets_adapters_under_names_of_the_whole_model(tmp_path, fake):
    with speaking(fake) as url:
        changes = LORA | {"policy.rollouts": f"{{url: {url}, reload: lora}}", "policy.drift": 100}
        run = remote_run(tmp_path, url, **changes)
        train(run, policy=open_policy)
    assert {body["model"] for body in fake.asked} == {"remote-policy"}
    assert [path for path, _ in fake.controls] == ["/v1/load_lora_adapter"] * 2
    first, second = (body for _, body in fake.controls)
    assert first["lora_name"] == "remote-policy" and first["load_inplace"]
    assert first["lora_path"] != second["lora_path"]
    tensors = read_tensors(fake.files["adapter_model.safetensors"])
    assert all(key.startswith("base_model.model.language_model.model.layers.") for key in tensors)
    assert json.loads(fake.files["adapter_config.json"])["r"] == 4
    mine = read_tensors(fake.files["../adapter_model.safetensors"])
    assert sorted(map(float, (each.sum() for each in mine.values()))) == sorted(
        map(float, (each.sum() for each in tensors.values()))
    )
    full = {"policy.rollouts": f"{{url: {url}, reload: lora}}"}
    with pytest.raises(ConfigError, match=r"reload=lora sends the decoder's adapters alone"):
        train(remote_run(tmp_path, url, "no", **full), policy=open_policy)


def faulty(fake, fault):
    if fault == "no end":
        fake.say = lambda index: ([40, 50], "stop")
    elif fault == "other prompt":
        fake.tokens = lambda body: 3
    elif fault == "no numbers":
        fake.by_number = False
    elif fault == "no control":
        fake.status = 404
    elif fault == "remembers":
        fake.forgets = False


FAULTS = {
    "no end": (RemoteError, r"after 2 tokens \('stop'\) without telling the token that ends it"),
    "other prompt": (
        ConfigError,
        r"questions.json:\d+ has 3 tokens there and \d+ here: .* serves another model",
    ),
    "no numbers": (RemoteError, r"did not tell tokens and log-probabilities"),
    "no control": (
        ConfigError,
        r"404: .*Not Found.*; it wants vLLM with VLLM_SERVER_DEV_MODE=1, or llavakit serve with",
    ),
    "remembers": (RemoteError, r"did not forget what it computed with the old weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_cannot_be_learned_from_is_named(tmp_path, fake, fault):
    kind, what = FAULTS[fault]
    with speaking(fake) as url:
        faulty(fake, fault)
        with pytest.raises(kind, match=what):
            train(remote_run(tmp_path, url), policy=open_policy)


def test_answers_are_cut_here_as_they_are_by_the_engine(tmp_path, fake, monkeypatch):
    """What a server drew behind a text that cuts is dropped; nothing is kept in memory of an engine."""
    made = []
    monkeypatch.setattr(Engine, "__init__", lambda *_, **__: made.append(1))
    text = tiny.encoder().tokenizer.decode([50])
    fake.say = lambda index: ([40, 50, 60, 60, 60], "length")
    with speaking(fake) as url:
        run = remote_run(tmp_path, url, **{"policy.cut_at": text, "policy.drift": 100, "optim.steps": 1})
        train(run, policy=open_policy)
    assert {(ids, finish) for ids, _, finish in said(run)} == {((40, 50), "length")} and not made
    assert all(text in body["stop"] for body in fake.asked)
