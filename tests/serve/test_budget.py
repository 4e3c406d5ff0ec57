"""The memory of the whole server: planned when it starts, held by requests, given back."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from llavakit.cli import entry
from llavakit.core.errors import ConfigError, DataError
from llavakit.core.memory import resident_bytes
from llavakit.serve import budget
from llavakit.serve.budget import MIB, MemoryBudget, MemoryShare, plan_memory
from llavakit.serve.errors import ApiError, ClientGone
from llavakit.serve.sizes import LETTERS, check_length
from tests import tiny
from tests.serve.live import CHAT, ScriptedWorker, asked, image_part, served, service, wait_until
from tests.serve.web import page, web


@pytest.fixture(scope="module")
def engine():
    made = service()
    yield made.engine
    made.close()


def test_the_plan_sets_aside_what_the_engine_keeps(engine):
    plan = plan_memory(engine, memory_gb=64, decoders=3)
    stats = engine.stats()
    assert plan.fixed["keys and values"] == stats.kv_budget * stats.kv_token_bytes > 0
    assert plan.fixed["decoders"] == 3 * budget.DECODER
    assert plan.fixed["model and libraries"] <= resident_bytes() * 1.1
    assert plan.total == pytest.approx(64e9, abs=1e6) and plan.requests > 0
    assert str(plan).startswith("memory: at most 64.0 GB (") and "keys and values" in str(plan)
    with pytest.raises(ConfigError, match=r"memory_gb: 0\.5 leave nothing .* lower --kv-gb"):
        plan_memory(engine, memory_gb=0.5, decoders=1)


def test_a_container_is_the_machine(engine, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(budget, "CGROUP", limit)
    free = plan_memory(engine, None, decoders=1)
    limit.write_text("max\n")
    assert plan_memory(engine, None, decoders=1).requests == pytest.approx(free.requests, rel=0.1)
    limit.write_text(f"{10**9}\n")
    with pytest.raises(ConfigError, match=r"memory_gb: 0\.8"):
        plan_memory(engine, None, decoders=1)


def test_what_is_held_is_given_back():
    whole = MemoryBudget(100)
    one, two = MemoryShare(whole), MemoryShare(whole)
    one.hold("body", 60)
    two.hold("body", 40)
    with pytest.raises(ApiError) as error:
        two.hold("tiles", 1)
    assert (error.value.status, error.value.code) == (429, "memory_full") and error.value.headers[
        "Retry-After"
    ]
    one.hold("body", 10)
    two.hold("tiles", 50)
    with pytest.raises(ApiError, match="takes") as error:
        two.hold("tiles", 61)
    assert error.value.status == 413 and "Retry-After" not in error.value.headers
    assert (whole.taken, whole.peak) == (100, 100)
    two.close()
    two.close()
    assert whole.taken == 10
    with pytest.raises(ClientGone):
        two.hold("media", 1)
    one.close()
    assert whole.taken == 0


def test_much_that_is_freed_goes_back_to_the_system(monkeypatch):
    calls = []
    monkeypatch.setattr(budget, "return_freed_memory", lambda: calls.append(1))
    whole = MemoryBudget(10 * budget.TRIM)
    for _ in range(4):
        share = MemoryShare(whole)
        share.hold("body", budget.TRIM // 2)
        share.close()
    wait_until(lambda: len(calls) == 2)


def test_servers_and_ranks_do_not_keep_freed_memory_as_training_does(run, monkeypatch):
    kept = []
    monkeypatch.setattr(entry, "keep_freed_memory", lambda: kept.append(1))
    assert run("serve", "--model", "/nowhere")[0] == 2
    assert kept == []
    run("models")
    assert kept == [1]
    monkeypatch.setenv("RANK", "0")
    run("models")
    assert kept == [1]


def test_a_request_holds_its_body_only_while_it_is_read(tmp_path):
    worker = ScriptedWorker("a")
    worker.gate.clear()
    large = image_part(tiny.picture(tmp_path / "a.png", size=(1200, 1200)))
    with served(worker) as (url, made), ThreadPoolExecutor(1) as pool:
        body = json.dumps(asked([large], max_tokens=1))
        assert len(body) > 4 * MIB
        answer = pool.submit(httpx2.post, url + CHAT, json=json.loads(body), timeout=60)
        wait_until(lambda: len(worker.requests) == 1)
        assert made.memory.peak > 2 * len(body), "it came, and was read"
        wait_until(lambda: 0 < made.memory.taken < 0.8 * len(body))  # the picture alone is left
        worker.gate.set()
        assert answer.result().status_code == 200
        wait_until(lambda: made.memory.taken == 0)


def test_without_room_one_is_told_to_come_back_and_too_much_is_refused_for_good(tmp_path):
    picture = asked([image_part(tiny.picture(tmp_path / "a.png", size=(600, 600)))])
    size = len(json.dumps(picture))
    with served(ScriptedWorker("a")) as (url, made):
        made.memory.limit = 8 * size
        other = MemoryShare(made.memory)
        other.hold("body", 7 * size)
        full = httpx2.post(url + CHAT, json=picture, timeout=60)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "memory_full")
        assert int(full.headers["retry-after"]) >= 1
        other.close()
        assert httpx2.post(url + CHAT, json=picture, timeout=60).status_code == 200
        made.memory.limit = size
        assert httpx2.post(url + CHAT, json=picture, timeout=60).status_code == 413
        wait_until(lambda: made.memory.taken == 0)
        long = asked(n=16, max_tokens=4096, logprobs=True, top_logprobs=20)
        assert httpx2.post(url + CHAT, json=long, timeout=60).status_code == 413


def test_what_is_fetched_counts_as_it_comes():
    from tests.serve.test_fetch import fetcher

    share = MemoryShare(MemoryBudget(50_000))
    with web({"/": page(b"x" * 200_000)}) as server, pytest.raises(ApiError):
        taken = []

        def take(count: int) -> None:
            taken.append(count)
            share.hold("media", sum(taken))

        fetcher().fetch(f"http://web.test:{server.port}/", 10**6, take)


def test_a_text_far_too_long_is_not_tokenized_whole(monkeypatch):
    tokenizer, context = tiny.byte_level_tokenizer(), 100
    heard = []
    plain = tokenizer.hf.__class__.__call__

    def counting(self, text, **how):
        heard.append(len(text))
        return plain(self, text, **how)

    monkeypatch.setattr(tokenizer.hf.__class__, "__call__", counting)
    check_length(["a b " * (LETTERS * context // 4)], tokenizer, context)
    assert heard == [], "short enough to be tokenized once"
    with pytest.raises(DataError, match=r"at least \d+ tokens; the model's context is 100"):
        check_length(["a b c d " * 250_000], tokenizer, context)
    assert sum(heard) < 10_000
