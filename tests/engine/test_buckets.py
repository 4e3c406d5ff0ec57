"""Decode steps in few shapes: the tokens of steps as they are, whatever is idle, recorded or not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.engine import buckets, layout
from llavakit.engine.buckets import SIZES, Replay, bucket
from llavakit.engine.decoder import ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.kv_slots import Arena, KvShape
from llavakit.engine.layout import Padded
from llavakit.engine.sampler import Sampling
from tests import tiny
from tests.model.test_fused import attend_by_lengths

LONG = Sampling(max_tokens=40, ignore_end=True)
KINDS = {"own layers": fuse, "modules": ModuleDecoder}


class Tape:
    """Stands for CUDA graphs: replays by computing again, and leaves the logits where they were recorded."""

    def __init__(self):
        self.recorded, self.played = 0, 0

    def __call__(self, compute):
        self.recorded += 1
        logits_TV = compute()

        def play():
            self.played += 1
            logits_TV.copy_(compute())

        return Replay(play, logits_TV)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return tiny.prompts(tmp_path_factory.mktemp("pictures"), [3, 60, 9, 130, 20])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_steps_as_they_are(samples, kind):
    """Five sequences in slots of two sizes, of which some grow and all end at other times."""
    model, tape = tiny.checkpoint().model, Tape()
    plain = Engine(model, frozenset(), decoder=KINDS[kind](model)).generate(samples, LONG)
    engine = Engine(model, frozenset(), decoder=KINDS[kind](model), record=tape)
    assert engine.generate(samples, LONG) == plain
    assert 0 < tape.recorded < 12 and tape.played > 20


def test_steps_above_the_largest_bucket_run_as_they_are(samples, monkeypatch):
    monkeypatch.setattr(buckets, "SIZES", (1, 2))
    model, tape = tiny.checkpoint().model, Tape()
    assert Engine(model, frozenset(), record=tape).generate(samples, LONG) == Engine(
        model, frozenset()
    ).generate(samples, LONG)
    assert tape.recorded == 0  # all in slots of two sizes, three of them in one
    Engine(model, frozenset(), record=tape).generate(samples[:2], LONG)
    assert tape.played > 20


def test_new_weights_are_recorded_anew(samples):
    model, other, tape = tiny.checkpoint().model, tiny.checkpoint(seed=1).model, Tape()
    engine = Engine(model, frozenset(), record=tape)
    before, count = engine.generate(samples[:2], LONG), tape.recorded
    engine.refresh(other.state_dict())
    after = engine.generate(samples[:2], LONG)
    assert after == Engine(other, frozenset()).generate(samples[:2], LONG) != before
    assert tape.recorded > count


def test_what_cannot_be_recorded_runs_on(samples, caplog):
    """Tokens stay right, it is said once, and nobody tries again."""
    model, tries = tiny.checkpoint().model, []

    def refuse(compute):
        tries.append(compute)
        raise RuntimeError("operation not permitted when stream is capturing")

    said = Engine(model, frozenset(), record=refuse).generate(samples, LONG)
    assert said == Engine(model, frozenset()).generate(samples, LONG)
    assert len(tries) == 1
    assert [record.message.partition(";")[0] for record in caplog.records if record.levelname == "ERROR"] == [
        "a step could not be recorded"
    ]


@given(rows=st.integers(1, 200), spare=st.integers(0, 80))
def test_a_bucket_is_the_smallest_that_fits(rows, spare):
    found = bucket(rows, rows + spare)
    if rows > SIZES[-1]:
        assert found is None
    else:
        assert rows <= found <= rows + spare
        assert found == rows + spare or all(size < rows or size >= found for size in SIZES)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(busy=st.lists(st.booleans(), min_size=1, max_size=6), data=st.data())
def test_idle_rows_change_no_slot(busy, data):
    """Of whatever is in the slots behind those that decode."""
    arena = Arena(KvShape(1, 2, 4, torch.float32, torch.device("cpu")), 128)
    arena.resize(6)
    arena.kv_L2SHKD.normal_()
    before = arena.kv_L2SHKD.clone()
    lengths = [data.draw(st.integers(0, 127)) for _ in busy]
    part = Padded(arena, 0, torch.tensor(lengths), torch.tensor(busy))
    key, value = torch.randn(2, 1, 2, len(busy), 4)
    part.write(key, value, 0)
    expected = before.clone()
    for slot, (length, is_busy) in enumerate(zip(lengths, busy, strict=True)):
        if is_busy:
            expected[0, 0, slot, :, length], expected[0, 1, slot, :, length] = (
                key[0, :, slot],
                value[0, :, slot],
            )
    assert torch.equal(arena.kv_L2SHKD, expected)


def test_prompts_that_begin_together_are_one_call(monkeypatch):
    """As on CUDA, whose kernel has a twin here. Each begins with a word of its own: nothing is copied."""
    model, calls = tiny.checkpoint().model, []
    asked = [
        Sample((10 + size, *range(30, 30 + size)), (0.0,) * (size + 1), (Segment(0, size + 1),), ())
        for size in (3, 40, 7)
    ]

    def counted(*args, **how):
        calls.append(len(args[3]) - 1)
        return attend_by_lengths(*args, **how)

    plain = Engine(model, frozenset()).generate(asked, LONG)
    monkeypatch.setattr(layout.Chunk, "on_cuda", True)
    monkeypatch.setattr(layout, "takes_lengths", lambda query, value, how: True)
    monkeypatch.setattr(varlen, "varlen_attn", counted)
    assert Engine(model, frozenset()).generate(asked, LONG) == plain
    assert set(calls) == {3}
