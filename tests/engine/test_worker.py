"""The worker: an engine asked by many threads."""

import logging
from threading import Event as Flag
from threading import Thread

import pytest

from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.engine.worker import Worker
from llavakit.text.conversation import Conversation, user
from tests import tiny

HOW = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


@pytest.fixture(scope="module")
def samples():
    words = ("red", "What color is the shape?", "Say a word.", "yes no yes")
    return [tiny.encoder().encode(Conversation((user(text),)), open_turn=True) for text in words]


class Listener:
    """Collects a request's tokens until its end."""

    def __init__(self, worker, sample, how=HOW):
        self.tokens, self.finish, self.ended = [], None, Flag()
        self.ticket = worker.submit(worker.engine.prepare(sample, how), self)

    def __call__(self, event):
        if event.token is not None:
            self.tokens.append(event.token)
        if event.finish:
            self.finish = event.finish
            self.ended.set()


def test_many_threads_get_their_own_answers(model, samples):
    expected = [Engine(model, frozenset()).generate([sample], HOW)[0] for sample in samples]
    worker, heard = Worker(Engine(model, frozenset())), []

    def client(number):
        listener = Listener(worker, samples[number % 4])
        assert listener.ended.wait(60)
        heard.append((number % 4, listener.tokens))

    threads = [Thread(target=client, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    assert len(heard) == 24
    assert all(tokens == expected[number] for number, tokens in heard)


def test_closing_lets_what_runs_end_or_does_not(model, samples):
    worker = Worker(Engine(model, frozenset()))
    listeners = [Listener(worker, sample) for sample in samples]
    worker.close()
    assert [(len(each.tokens), each.finish) for each in listeners] == [(12, "length")] * 4

    worker = Worker(Engine(model, frozenset()))
    listeners = [Listener(worker, sample, Sampling(max_tokens=400)) for sample in samples]
    worker.close(finish=False)
    assert [each.finish for each in listeners] == ["cancelled"] * 4


def test_a_cancelled_request_ends_and_frees_its_place(model, samples):
    worker = Worker(Engine(model, frozenset(), max_sequences=1))
    long, short = Listener(worker, samples[0], Sampling(max_tokens=400)), Listener(worker, samples[1])
    long.ticket.cancel()
    assert short.ended.wait(60) and long.finish == "cancelled" and len(short.tokens) == 12
    long.ticket.cancel()  # again: nothing happens
    worker.close()


def test_an_error_in_a_step_ends_what_runs_and_the_worker_goes_on(model, samples, caplog):
    class Breaking(Engine):
        broken = False

        def step(self):
            if self.broken:
                self.broken = False
                raise MemoryError("no more")
            super().step()

    engine = Breaking(model, frozenset())
    worker = Worker(engine)
    engine.broken = True
    with caplog.at_level(logging.ERROR):
        failed = Listener(worker, samples[0])
        assert failed.ended.wait(60)
    assert failed.finish == "failed"
    assert "MemoryError" in caplog.text and "no more" not in caplog.text
    well = Listener(worker, samples[0])
    assert well.ended.wait(60) and well.finish == "length"
    worker.close()


def test_errands_run_between_steps_and_their_errors_come_back(model):
    worker = Worker(Engine(model, frozenset()))
    assert worker.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0)
    worker.close()
