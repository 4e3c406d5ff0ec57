"""A fault belongs to its request: whatever goes wrong for one, the others are answered as if nothing had been."""

import json
import logging
from threading import Event as Flag

import pytest
import torch

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import IMAGE_ID, Segment
from llavakit.data.encode import Sample
from llavakit.engine.cache import SlotCache
from llavakit.engine.decoder import fuse
from llavakit.engine.engine import Engine
from llavakit.engine.fault import Boundary, describe
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.text.conversation import Conversation, user
from tests import tiny

STOPS = frozenset({2})
HOW = Sampling(max_tokens=10)
LARGE = json.dumps(
    {"type": "object", "properties": {f"property{number}": {"type": "string"} for number in range(500)}}
)


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The bystander's prompt, one with a picture, and a text."""
    folder, encoder = tmp_path_factory.mktemp("images"), tiny.encoder()
    talks = (
        user("What color?", [tiny.picture(folder / "a.png", 1)]),
        user("And this?", [tiny.picture(folder / "b.png", 2)]),
        user("Say a word."),
    )
    return [encoder.encode(Conversation((talk,)), open_turn=True) for talk in talks]


@pytest.fixture(scope="module")
def alone(model, samples):
    return [Engine(model, STOPS).generate([sample], HOW)[0] for sample in samples]


class Client:
    """Collects what it hears."""

    def __init__(self):
        self.tokens, self.ends = [], []

    def __call__(self, event):
        if event.token is not None:
            self.tokens.append(event.token)
        if event.finish is not None:
            self.ends.append(event)

    @property
    def finish(self):
        (end,) = self.ends
        return end.finish


def ask(engine, sample, how=HOW, ends=None):
    client = Client()
    request = engine.prepare(sample, how)
    engine.submit(request, client) if ends is None else engine.submit(request, client, ends)
    return client


def finish(engine):
    while engine.busy:
        engine.step()


@pytest.mark.parametrize(
    "how",
    [
        Sampling(max_tokens=30, json_schema=LARGE),
        Sampling(max_tokens=30, json_schema=LARGE, temperature=1.0, n=2),
    ],
)
def test_a_schema_that_outgrows_the_matcher_ends_its_own_choices(model, samples, alone, how):
    engine = Engine(model, STOPS, tokenizer=tiny.encoder().tokenizer)
    bystander, guilty = ask(engine, samples[0]), ask(engine, samples[1], how)
    finish(engine)
    assert (bystander.tokens, bystander.finish) == (alone[0], "length")
    assert [end.finish for end in guilty.ends] == ["failed"] * how.n
    assert all("json_schema: " in str(end.error) for end in guilty.ends)
    assert ask(engine, samples[1]).ends == []
    finish(engine)


def test_a_schema_that_outgrows_the_matcher_is_one_line_for_who_asks_alone(model, samples):
    engine = Engine(model, STOPS, tokenizer=tiny.encoder().tokenizer)
    with pytest.raises(DataError, match="json_schema: Parser Error"):
        engine.generate(samples[2:], Sampling(json_schema=LARGE))
    assert not engine.busy


@pytest.mark.parametrize("how", [
    {"temperature": 1e-40}, {"repetition_penalty": 1e-39}, {"repetition_penalty": 1e-39, "temperature": 1.0},
    {"repetition_penalty": 1e39, "temperature": 1e-4},
])  # fmt: skip
def test_strange_numbers_with_a_schema_give_its_answer(model, samples, how):
    schema = json.dumps({"enum": ["red", "blue"]})
    encoder = tiny.encoder()
    engine = Engine(model, STOPS, tokenizer=encoder.tokenizer)
    said = engine.generate(samples[:1], Sampling(json_schema=schema, **how))
    assert json.loads(encoder.tokenizer.decode(said[0])) in ("red", "blue")


def test_pictures_only_with_a_penalty(model, samples):
    """A prompt without one token of text has nothing that the penalty could count."""
    media = samples[0].media
    count = media[0].plan.num_tokens
    only = Sample((IMAGE_ID,) * count, (0.0,) * count, (Segment(0, count),), media)
    free, penalised = (
        Engine(model, STOPS).generate([only], Sampling(max_tokens=1, repetition_penalty=penalty))
        for penalty in (1.0, 1.5)
    )
    assert free == penalised and len(free[0]) == 1


class Broken:
    """A decoder that cannot compute rows of one token, or not while it is told so."""

    def __init__(self, model, breaks):
        self.inner, self.breaks = fuse(model), breaks
        self.kernels, self.lack = self.inner.kernels, None
        self.calls = 0

    def __call__(self, x_TD, *arguments):
        self.calls += 1
        if self.breaks(x_TD):
            raise RuntimeError("the secret of a user")
        return self.inner(x_TD, *arguments)

    def logits(self, hidden_LD):
        return self.inner.logits(hidden_LD)


def poisoned(model, samples):
    """Breaks where the second token of `samples[2]`'s answer comes in."""
    token = Engine(model, STOPS).generate(samples[2:], HOW)[0][1]
    row = model.language.get_input_embeddings().weight[token]
    return lambda x_TD: bool((x_TD == row).all(dim=1).any())


def test_a_forward_that_fails_is_taken_again_one_by_one(model, samples, alone, caplog):
    decoder = Broken(model, poisoned(model, samples))
    engine = Engine(model, STOPS, decoder=decoder)
    clients = [ask(engine, sample) for sample in (samples[0], samples[2], samples[1])]
    finish(engine)
    assert [client.finish for client in clients] == ["length", "failed", "length"]
    assert [client.tokens for client in clients] == [alone[0], alone[2][:2], alone[1]]
    assert str(clients[1].ends[0].error) == "the secret of a user"
    assert "secret" not in caplog.text and "test_faults.py" in caplog.text


def test_too_much_at_once_is_computed_in_pieces(model, samples, alone):
    """As when memory runs out for many rows: nobody is guilty, and everybody is answered."""
    decoder = Broken(model, lambda x_TD: len(x_TD) > max(len(sample.ids) for sample in samples))
    engine = Engine(model, STOPS, decoder=decoder)
    clients = [ask(engine, sample) for sample in samples]
    finish(engine)
    assert [client.tokens for client in clients] == alone


def test_a_picture_that_breaks_the_tower_ends_its_request(model, samples, alone):
    engine = Engine(model, STOPS)
    request = engine.prepare(samples[1], HOW)
    for key, tiles in request.tiles.items():
        request.tiles[key] = tiles[:, :3, :3]  # no such size
    guilty, clients = Client(), []
    clients.append(ask(engine, samples[0]))
    engine.submit(request, guilty)
    clients.append(ask(engine, samples[2]))
    finish(engine)
    assert guilty.finish == "failed"
    assert [client.tokens for client in clients] == [alone[0], alone[2]]


@pytest.mark.parametrize("at", ["token", "end", "always", "ends"])
def test_a_listener_that_raises_ends_its_own_choice(model, samples, alone, at, caplog):
    engine, heard = Engine(model, STOPS), []

    def listen(event):
        heard.append(event.finish)
        if (
            at == "always"
            or (at == "token" and len(heard) == 3)
            or (at == "end" and event.finish == "length")
        ):
            raise KeyError("the secret of a user")

    def ends(choice, token):
        if at == "ends":
            raise KeyError("the secret of a user")
        return False

    bystander = ask(engine, samples[0])
    engine.submit(engine.prepare(samples[2], HOW), listen, ends)
    finish(engine)
    assert (bystander.tokens, bystander.finish) == (alone[0], "length")
    assert heard[-1] == "failed" and heard.count("failed") == 1
    assert "KeyError" in caplog.text and "secret" not in caplog.text


def test_scores_that_are_no_numbers_end_their_request(model, samples, alone):
    class Nan(Broken):
        def logits(self, hidden_LD):
            logits_LV = super().logits(hidden_LD)
            logits_LV[-1] = torch.nan
            return logits_LV

    engine = Engine(model, STOPS, decoder=Nan(model, lambda x_TD: False))
    bystander, guilty = ask(engine, samples[0]), ask(engine, samples[2])
    engine.step()
    finish_of = [client.ends[0].finish if client.ends else None for client in (bystander, guilty)]
    assert finish_of == [None, "failed"] and bystander.tokens == alone[0][:1]


def test_what_failed_is_told_in_full_only_to_who_looks_for_it(caplog):
    with Boundary() as own:
        raise ValueError("the secret of a user")
    assert describe(own.error).startswith("ValueError < test_faults.py:")
    assert "secret" not in describe(own.error)
    with pytest.raises(KeyboardInterrupt), Boundary():
        raise KeyboardInterrupt


def test_stop_texts_end_the_answers_of_the_engine_and_of_the_worker(model, samples):
    tokenizer = tiny.encoder().tokenizer
    engine = Engine(model, STOPS, tokenizer=tokenizer)
    long = Sampling(max_tokens=60)
    (whole,) = engine.generate(samples[2:], long)
    text = tokenizer.decode(whole)
    stop = text[len(text) // 2 :][:3]
    how = long.model_copy(update={"stop": (stop,)})
    (said,) = engine.generate(samples[2:], how)
    first = next(n for n in range(1, 61) if stop in tokenizer.decode(whole[:n]))
    assert said == whole[:first] and len(said) < 60
    worker, ended = Worker(engine), Flag()
    client = Client()

    def listen(event):
        client(event)
        if event.finish:
            ended.set()

    worker.submit(engine.prepare(samples[2], how), listen)
    assert ended.wait(60)
    worker.close()
    assert (client.tokens, client.finish) == (said, "stop")
    with pytest.raises(ConfigError, match="stop: this engine was made without a tokenizer"):
        Engine(model, STOPS).generate(samples[2:], how)


def test_several_answers_to_a_batch_are_refused_in_one_line(model, samples):
    with pytest.raises(ConfigError, match="n=2: one answer is given for each prompt"):
        Engine(model, STOPS).generate(samples, Sampling(n=2))


def waiting(worker, sample, how=HOW):
    client, ended = Client(), Flag()

    def listen(event):
        client(event)
        if event.finish:
            ended.set()

    client.ticket = worker.submit(worker.engine.prepare(sample, how), listen)
    client.ended = ended
    return client


def test_nobody_hangs_when_the_memory_for_keys_breaks(model, samples, alone, monkeypatch, caplog):
    """Whatever raises while requests are ended, they end, and the next ones are answered."""
    worker = Worker(Engine(model, STOPS))

    def breaks(*arguments):
        raise MemoryError("the secret of a user")

    with monkeypatch.context() as patch:
        patch.setattr(SlotCache, "close", breaks)
        clients = [waiting(worker, sample) for sample in samples]
        assert all(client.ended.wait(60) for client in clients)
    after = waiting(worker, samples[0])
    assert after.ended.wait(60) and after.tokens == alone[0]
    worker.close()
    assert "MemoryError" in caplog.text and "secret" not in caplog.text


def test_nobody_hangs_when_the_engine_cannot_even_end_its_requests(model, samples):
    class Hopeless(Engine):
        def step(self):
            raise MemoryError

        def abort(self, finish, error=None):
            raise MemoryError

    worker = Worker(Hopeless(model, STOPS))
    clients = [waiting(worker, sample, Sampling(n=2)) for sample in samples]
    assert all(client.ended.wait(60) for client in clients)
    later = waiting(worker, samples[0])
    assert later.ended.wait(60) and later.finish == "failed"
    worker.close()
    assert [[end.finish for end in client.ends] for client in clients] == [["failed"] * 2] * 3


def test_a_request_that_cannot_begin_is_told_so(model, samples, monkeypatch):
    worker = Worker(Engine(model, STOPS))
    with monkeypatch.context() as patch:
        patch.setattr("llavakit.engine.engine.Draw", lambda *arguments: 1 // 0)
        client = waiting(worker, samples[0])
        assert client.ended.wait(60)
    assert client.finish == "failed"
    client.ticket.cancel()
    worker.close()


def test_tickets_may_be_cancelled_and_workers_closed_after_the_end(model, samples):
    worker = Worker(Engine(model, STOPS))
    client = waiting(worker, samples[0])
    worker.close()
    client.ticket.cancel()
    worker.close()
    assert client.finish == "length"
    with pytest.raises(RuntimeError, match="the worker is closed"):
        waiting(worker, samples[0])


def test_the_log_says_more_on_the_level_debug(model, samples, caplog):
    engine = Engine(model, STOPS, decoder=Broken(model, poisoned(model, samples)))
    with caplog.at_level(logging.DEBUG, logger="llavakit.engine.fault"):
        ask(engine, samples[2])
        finish(engine)
    assert "the secret of a user" in caplog.text
