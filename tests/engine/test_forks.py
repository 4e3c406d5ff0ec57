"""Prompts that begin alike share every token that is alike, and answer as they would alone."""

from collections import Counter
from itertools import takewhile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.chat import Chat
from llavakit.core.types import Segment
from llavakit.data import media
from llavakit.data.encode import Sample
from llavakit.engine.engine import Engine
from llavakit.engine.native import NativePrompts, PromptRows, Workspace, missing
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, user
from tests import tiny

STOPS = frozenset({2})
HOW = Sampling(max_tokens=4, ignore_end=True)


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


def text(*ids):
    return Sample(ids, (0.0,) * len(ids), (Segment(0, len(ids)),))


def computed(engine):
    return engine.stats().prompt_tokens - engine.stats().copied_tokens


def alike(one, other):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def fresh(prompts):
    """Tokens that no earlier prompt begins with; the last one of each is always computed."""
    total = 0
    for number, ids in enumerate(prompts):
        known = max((alike(ids, other) for other in prompts[:number]), default=0)
        total += len(ids) - min(known, len(ids) - 1)
    return total


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=9).map(tuple), min_size=1, max_size=12),
    step_tokens=st.sampled_from([1, 5, 2048]),
    max_sequences=st.sampled_from([2, 64]),
)
def test_what_is_alike_is_computed_once_to_the_token(model, prompts, step_tokens, max_sequences):
    samples = [text(*ids) for ids in prompts]
    engine = Engine(model, STOPS, step_tokens=step_tokens, max_sequences=max_sequences)
    together = engine.generate(samples, HOW)
    assert together == [Engine(model, STOPS).generate([sample], HOW)[0] for sample in samples]
    if step_tokens == 2048 and max_sequences == 64:
        assert computed(engine) == fresh(prompts)


def test_questions_about_one_picture_share_it_in_their_first_step(model, tmp_path):
    picture, encoder = tiny.picture(tmp_path / "a.png", 1), tiny.encoder()
    samples = [
        encoder.encode(Conversation((user(asked, [picture]),)), open_turn=True)
        for asked in ("What color?", "What color is it?", "Which shape?", "What?")
    ]
    engine, heard = Engine(model, STOPS), []
    for sample in samples:
        engine.submit(engine.prepare(sample, HOW), lambda event: heard.append(event.request))
    engine.step()
    assert sorted(heard) == [0, 1, 2, 3], "one step is enough"
    assert engine.stats().tower_tiles == 1
    assert computed(engine) == fresh([engine.prepare(sample, HOW).names for sample in samples])


def test_a_picture_that_several_ask_about_is_opened_and_decoded_once(model, tmp_path, monkeypatch):
    calls = Counter()
    for name in ("image_size", "load_image", "digest"):
        plain = getattr(media, name)

        def counted(*arguments, name=name, plain=plain, **more):
            calls[name] += 1
            return plain(*arguments, **more)

        monkeypatch.setattr(media, name, counted)
    picture, other = (tiny.picture(tmp_path / f"{number}.png", number) for number in (1, 2))
    talks = [Conversation((user(f"Number {n}?", [picture]),)) for n in range(3)]
    talks.append(Conversation((user("Both?", [picture, other]),)))
    Chat(Engine(model, STOPS), tiny.encoder()).batch(talks, sampling=HOW)
    # A picture that stands alone may be planned in another way than one beside another.
    assert calls == {"image_size": 3, "load_image": 2, "digest": 3}


def test_a_prompt_that_goes_on_with_another_picture_begins_like_one_that_runs(model, tmp_path):
    """It cannot compute a token in the step in which it comes: its picture is not seen yet."""
    one, two = (tiny.picture(tmp_path / f"{n}.png", n) for n in (1, 2))
    encoder = tiny.encoder()
    first, second = (
        encoder.encode(Conversation((user("", pictures),)), open_turn=True)
        for pictures in ([one], [one, two])
    )
    alone = [Engine(model, STOPS).generate([sample], HOW)[0] for sample in (first, second)]
    engine = Engine(model, STOPS, step_tokens=1)
    heard = {0: [], 1: []}
    for sample in (first, second):
        engine.submit(engine.prepare(sample, HOW), lambda event: heard[event.request].append(event.token))
    while engine.busy:
        engine.step()
    assert [heard[0], heard[1]] == alone


def test_prompts_of_two_keys_share_nothing(model):
    engine = Engine(model, STOPS)
    for salt in (b"one", b"two"):
        engine.submit(engine.prepare(text(3, 4, 5), HOW, salt=salt), lambda event: None)
    engine.step()
    assert engine.stats().copied_tokens == 0


def test_who_begins_like_one_that_fails_is_answered_all_the_same(model, monkeypatch):
    """The step is taken again one by one; what the guilty one should have computed is not there."""
    engine = Engine(model, STOPS)
    samples = [text(3, 4, 5, 6), text(3, 4, 5, 7), text(3, 4, 8)]
    alone = [Engine(model, STOPS).generate([sample], HOW)[0] for sample in samples[1:]]
    run, failed = engine._forward._run, []

    def fail(step, cache):
        if any(sequence.ids[:4] == [3, 4, 5, 6] for sequence in step.sequences):
            failed.append(step)
            raise RuntimeError("no")
        return run(step, cache)

    monkeypatch.setattr(engine._forward, "_run", fail)
    heard, finishes = {n: [] for n in range(3)}, {}

    def listen(event):
        if event.token is not None:
            heard[event.request].append(event.token)
        if event.finish:
            finishes[event.request] = event.finish

    for sample in samples:
        engine.submit(engine.prepare(sample, HOW), listen)
    while engine.busy:
        engine.step()
    assert len(failed) == 2
    assert finishes == {0: "failed", 1: "length", 2: "length"}
    assert [heard[1], heard[2]] == alone


def test_who_ended_is_no_beginning_any_more(model):
    """Its blocks are: whole ones, as before."""
    engine = Engine(model, STOPS)
    engine.generate([text(*range(3, 40))], HOW)
    assert not engine._scheduler._beginnings._entries
    engine.generate([text(*range(3, 40))], HOW)
    assert engine.stats().copied_tokens == 32


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    starts=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 40)), min_size=1, max_size=9),
    heads=st.sampled_from([(9, 3, 64), (2, 1, 32), (4, 4, 16)]),
)
def test_rows_of_many_prompts_in_c_are_those_of_each_alone(starts, heads):
    """Equal to the last bit, with what the first leaves in its slot as the beginning of all others."""
    if missing() is not None:
        return  # test_native.py says what is missing
    heads, key_heads, width = heads
    dice = torch.Generator().manual_seed(0)
    first = (0, 70)
    prompts, rows = [first, *starts], 70 + sum(count for _, count in starts)
    kv = torch.zeros(2, 2, len(prompts), key_heads, 128, width, dtype=torch.bfloat16)
    qkv = torch.randn(rows, heads + 2 * key_heads, width, generator=dice).bfloat16()
    out = torch.empty(rows, heads, width, dtype=torch.bfloat16)
    given_rows, row = [], 0
    for number, (start, count) in enumerate(prompts):
        source = kv[:, :, 0] if number else None
        given_rows.append(PromptRows(kv[:, :, number], start, count, row, source))
        row += count
    NativePrompts(given_rows).attend(qkv, 1, 0.2, out, Workspace())
    for number, prompt in enumerate(given_rows):
        slot = torch.zeros(2, 2, key_heads, 128, width, dtype=torch.bfloat16)
        slot[:, :, :, : prompt.start] = kv[:, :, 0, :, : prompt.start]
        mine = slice(prompt.row, prompt.row + prompt.tokens)
        alone = torch.empty(prompt.tokens, heads, width, dtype=torch.bfloat16)
        own = PromptRows(slot, prompt.start, prompt.tokens, 0)
        NativePrompts([own]).attend(qkv[mine].contiguous(), 1, 0.2, alone, Workspace())
        assert torch.equal(alone, out[mine])
        assert torch.equal(slot[1], kv[1, :, number])
    assert not kv[0].any(), "another layer"
