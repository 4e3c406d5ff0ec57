"""Whoever comes and goes, whatever the memory: every request is answered as if it were alone."""

import json
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample, join
from llavakit.data.pack import collate
from llavakit.engine.decoder import ModuleDecoder, fuse
from llavakit.engine.engine import Engine
from llavakit.engine.prefix import BLOCK, extend_keys
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, assistant, user
from tests import tiny

STOPS = frozenset(range(40))  # a tenth of the vocabulary: answers have many lengths


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


@pytest.fixture(scope="module")
def encoder():
    return tiny.encoder()


@pytest.fixture(scope="module")
def samples(tmp_path_factory, encoder):
    """Prompts that share beginnings in many ways: images, questions, an earlier answer, nothing."""
    folder = tmp_path_factory.mktemp("images")
    a, b = (tiny.picture(folder / f"{n}.png", n) for n in (1, 2))
    long = "What color is the shape, please? " * 6
    talks = [
        (user("What color?", [a]),),
        (user(long, [a]),),
        (user(long + "Yes?", [a]), assistant("no"), user("Sure?")),
        (user(long, [b]),),
        (user("Both?" + long, [a, b]),),
        (user("Say a word." * 20),),
    ]
    return [encoder.encode(Conversation(talk), open_turn=True) for talk in talks]


HOWS = [
    Sampling(max_tokens=30),
    Sampling(max_tokens=5),
    Sampling(max_tokens=20, temperature=1.2, top_p=0.9, seed=5),
    Sampling(max_tokens=12, temperature=0.8, n=3, seed=1),
    Sampling(max_tokens=15, repetition_penalty=1.5),
    Sampling(max_tokens=140, ignore_end=True),
    Sampling(max_tokens=15, presence_penalty=0.7, frequency_penalty=1.9, logit_bias={50: 6.0, 60: 6.0}),
]


def answers(engine: Engine, events: list) -> dict[tuple[int, int], list[int]]:
    out = defaultdict(list)
    for event in events:
        if event.token is not None:
            out[event.request, event.choice].append(event.token)
    return out


def alone(model, sample, how) -> list[list[int]]:
    """Each answer in an engine of its own that has all the room there is."""
    out = []
    for choice in range(how.n):
        engine = Engine(model, STOPS)
        out += engine.generate([sample], how.model_copy(update={"n": 1, "seed": how.seed + choice}))
    return out


@pytest.fixture(scope="module")
def expected(model, samples):
    return {
        (s, h): alone(model, sample, how) for s, sample in enumerate(samples) for h, how in enumerate(HOWS)
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    work=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6), st.sampled_from([None, None, 0, 3, 9])),
        min_size=1, max_size=9,
    ),
    max_sequences=st.sampled_from([1, 2, 5, 64]),
    step_tokens=st.sampled_from([1, 7, 50, 1024]),
    kv_tokens=st.sampled_from([512, 700, 1100, 100_000]),
)  # fmt: skip
def test_every_answer_is_that_of_a_request_alone(
    model, samples, expected, work, max_sequences, step_tokens, kv_tokens
):
    """`work` is (prompt, sampling, steps until the next arrives, steps after which it is cancelled)."""
    engine = Engine(
        model,
        STOPS,
        max_sequences=max_sequences,
        step_tokens=step_tokens,
        kv_bytes=kv_tokens * 2 * 2 * 2 * 12 * 4,
    )
    events, asked, cancel_at, steps = [], {}, {}, 0
    for s, h, pause, patience in work:
        number = engine.submit(engine.prepare(samples[s], HOWS[h]), events.append)
        asked[number] = (s, h)
        cancel_at |= {} if patience is None else {number: steps + patience}
        for _ in range(pause):
            engine.step()
            steps += 1
    while engine.busy:
        for number in [number for number, when in cancel_at.items() if when <= steps]:
            engine.cancel(number)
            del cancel_at[number]
        engine.step()
        steps += 1
        assert engine.stats().kv_tokens <= engine.stats().kv_budget
    said = answers(engine, events)
    ends = {(event.request, event.choice): event.finish for event in events if event.finish}
    assert len(ends) == sum(HOWS[h].n for _, h in asked.values()), "every choice ends, and once"
    for number, (s, h) in asked.items():
        for choice, whole in enumerate(expected[s, h]):
            got = said[number, choice]
            if ends[number, choice] == "cancelled":
                assert got == whole[: len(got)]
            else:
                assert got == whole
                assert ends[number, choice] == ("length" if len(got) == HOWS[h].max_tokens else "stop")
    assert engine.stats().running == engine.stats().waiting == 0


def test_memory_that_runs_out_sends_the_youngest_back_and_no_token_changes(model, samples):
    how = Sampling(max_tokens=120, ignore_end=True)
    tight = Engine(model, STOPS, kv_bytes=700 * 2 * 2 * 2 * 12 * 4)
    assert tight.generate(samples, how) == Engine(model, STOPS).generate(samples, how)
    assert tight.stats().preemptions > 0


def test_a_known_beginning_is_neither_computed_nor_seen_again(model, samples, encoder):
    engine = Engine(model, STOPS)
    first = engine.generate(samples[1:2], HOWS[5])
    before = engine.stats()
    assert engine.generate(samples[1:2], HOWS[5]) == first
    after = engine.stats()
    computed = after.prompt_tokens - after.copied_tokens - before.prompt_tokens + before.copied_tokens
    assert 1 <= computed <= BLOCK
    assert after.tower_tiles == before.tower_tiles == 1
    # what was answered is known as well: a second turn goes on from it
    whole = samples[1].ids + tuple(first[0])
    keys: list[bytes] = []
    extend_keys(keys, engine.prepare(samples[1], HOWS[0]).names + tuple(first[0]))
    assert engine._cache.prefixes.matching(keys) == (len(whole) - 1) // BLOCK


def test_questions_about_one_picture_compute_it_once(model, samples):
    engine = Engine(model, STOPS)
    requests = [engine.prepare(samples[1], Sampling(max_tokens=4, n=8, temperature=1.0)) for _ in range(3)]
    for request in requests:
        engine.submit(request, lambda event: None)
    while engine.busy:
        engine.step()
    stats = engine.stats()
    computed = stats.prompt_tokens - stats.copied_tokens
    assert computed <= len(samples[1].ids) + 23 * BLOCK
    assert stats.tower_tiles == 1


def test_equal_tokens_of_other_pictures_are_not_taken_for_known(model, samples):
    engine = Engine(model, STOPS)
    assert samples[1].ids == samples[3].ids  # the same question about another picture of the same size
    together = engine.generate([samples[1], samples[3]], HOWS[0])
    assert together == [alone(model, samples[n], HOWS[0])[0] for n in (1, 3)]
    assert engine.stats().tower_tiles == 2


def test_scores_are_the_log_probabilities_generation_gives(model, encoder, samples):
    talk = Conversation((user("What color is the shape?"), assistant("red and blue")))
    sample = encoder.encode(talk)
    learned = [token for token, weight in zip(sample.ids, sample.weights, strict=True) if weight > 0]
    prompt = encoder.encode(Conversation(talk.messages[:1]), open_turn=True)
    (scores,) = Engine(model, frozenset()).score([sample])
    expected = []
    for at in range(len(learned)):
        longer = prompt.ids + tuple(learned[:at])
        so_far = Sample(longer, (0.0,) * len(longer), (Segment(0, len(longer)),))
        events = []
        engine = Engine(model, frozenset())
        engine.submit(
            engine.prepare(so_far, Sampling(max_tokens=1, logprobs=model.language.config.vocab_size)),
            events.append,
        )
        engine.step()
        expected.append(dict(events[0].top)[learned[at]])
    assert scores == pytest.approx(expected, abs=1e-4)


def test_answers_that_share_a_prompt_are_scored_as_one_sample(model, encoder, samples, tmp_path):
    image = tiny.picture(tmp_path / "a.png")
    each = [
        encoder.encode(Conversation((user("What color?", [image]), assistant(text))))
        for text in ("red", "dark blue")
    ]
    engine = Engine(model, STOPS)
    apart = [score for scores in engine.score(each) for score in scores]
    assert engine.score([join(each)])[0] == pytest.approx(apart, abs=1e-4)


def test_an_embedding_is_the_mean_of_the_last_hidden_states(model, samples):
    engine = Engine(model, STOPS)
    expected_SD = []
    for sample in samples:
        more = Sample(
            (*sample.ids, 7), (*sample.weights, 0.0), (Segment(0, sample.num_tokens + 1),), sample.media
        )
        with torch.no_grad():
            hidden_TD = model.hidden(collate([more], [media.tiles() for media in sample.media]))
        assert len(hidden_TD) == sample.num_tokens, "a batch looks at all but the last"
        expected_SD.append(hidden_TD.mean(dim=0))
    torch.testing.assert_close(engine.embed(samples), torch.stack(expected_SD), atol=1e-4, rtol=1e-4)
    one = engine.embed([Sample((7,), (0.0,), (Segment(0, 1),))])
    assert one.isfinite().all(), "a single token is looked at"
    assert engine.embed([]).shape == (0, 48)


@pytest.mark.parametrize("give", ["prepare", "embed"])
def test_a_prompt_without_tokens_is_refused(model, give):
    """As a template renders that has nothing around an empty question."""
    engine, empty = Engine(model, STOPS), Sample((), (), (Segment(0, 0),))
    with pytest.raises(DataError, match="the prompt has no tokens"):
        engine.prepare(empty, HOWS[0]) if give == "prepare" else engine.embed([empty])


def test_a_bias_for_a_token_that_the_model_does_not_have_is_refused(model, samples):
    vocabulary = model.language.config.vocab_size
    with pytest.raises(DataError, match=f"logit_bias: there is no token {vocabulary}"):
        Engine(model, STOPS).prepare(samples[0], Sampling(logit_bias={vocabulary: 1.0}))
    only = Sampling(max_tokens=3, logit_bias={vocabulary - 1: 100})
    assert Engine(model, STOPS).generate(samples[:1], only) == [[vocabulary - 1] * 3]


SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "maximum": 99}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


def test_an_answer_keeps_to_its_schema(model, samples, encoder):
    engine = Engine(model, frozenset({2}), tokenizer=encoder.tokenizer)
    how = Sampling(max_tokens=200, temperature=1.5, n=4, json_schema=json.dumps(SCHEMA))
    events = []
    engine.submit(engine.prepare(samples[0], how), events.append)
    engine.submit(engine.prepare(samples[0], Sampling(max_tokens=9)), events.append)  # beside one without
    while engine.busy:
        engine.step()
    said = answers(engine, events)
    for choice in range(4):
        value = json.loads(encoder.tokenizer.decode(said[0, choice]))
        assert value["color"] in ("red", "blue") and value["count"] <= 99
    assert said[1, 0] == Engine(model, frozenset({2})).generate(samples[:1], Sampling(max_tokens=9))[0]


def test_a_schema_that_cannot_be_kept_is_refused_before_it_runs(model, samples, encoder):
    engine = Engine(model, STOPS, tokenizer=encoder.tokenizer)
    for schema, message in (("{", "not JSON"), ('{"type": "colour"}', "colour")):
        with pytest.raises(DataError, match=f"json_schema: .*{message}"):
            engine.prepare(samples[0], Sampling(json_schema=schema))
    with pytest.raises(ConfigError, match="tokenizer"):
        Engine(model, STOPS).prepare(samples[0], Sampling(json_schema="{}"))


def test_new_weights_answer_as_a_new_engine_does(samples):
    old, new = tiny.checkpoint(seed=0).model, tiny.checkpoint(seed=1).model
    expected = Engine(new, STOPS).generate(samples, HOWS[0])
    engine = Engine(old, STOPS)
    assert engine.generate(samples, HOWS[0]) != expected
    for sample in samples:  # some wait, some run
        engine.submit(engine.prepare(sample, HOWS[0]), lambda event: None)
    engine.step()
    engine.refresh(new.state_dict())
    while engine.busy:
        engine.step()
    assert engine.generate(samples, HOWS[0]) == expected


@pytest.mark.parametrize("decoder", ["own layers", "module"])
@pytest.mark.parametrize(
    ("name", "tensor", "why"),
    [
        ("language.head", torch.zeros(1), "no weights called head"),
        ("tower.none", torch.zeros(1), r"no weights called tower\.none"),
        ("language.lm_head.weight", torch.zeros(3, 48), r"is \(3, 48\), the model's is"),
        ("connector.linear_1.weight", torch.zeros(48), r"is \(48,\), the model's is"),
        ("connector.linear_1.weight", torch.zeros(48, 32, device="meta"), "no values"),
        ("language.model.norm.weight", torch.zeros(48).to_sparse(), "no values"),
    ],
)
def test_new_weights_that_are_refused_change_nothing(samples, decoder, name, tensor, why):
    old, new = tiny.checkpoint(seed=0).model, tiny.checkpoint(seed=1).model
    engine = Engine(old, STOPS, decoder=fuse(old) if decoder == "own layers" else ModuleDecoder(old))
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    expected = engine.generate(samples, HOWS[0])
    events = []
    engine.submit(engine.prepare(samples[0], HOWS[0]), events.append)
    engine.step()
    for position in (0, len(before)):  # the bad one first or last
        given = list(new.state_dict().items())
        given = [(each, value) for each, value in given if each != name]
        given.insert(position, (name, tensor))
        with pytest.raises(ConfigError, match=why):
            engine.refresh(dict(given))
    assert all(torch.equal(old.state_dict()[each], value) for each, value in before.items())
    assert engine.stats().preemptions == 0
    assert engine.generate(samples, HOWS[0]) == expected
    assert list(answers(engine, events).values()) == [expected[0]]


def test_a_dropped_stream_leaves_nothing_behind(model, samples):
    engine = Engine(model, STOPS)
    stream = engine.stream(samples, HOWS[5])
    next(stream)
    stream.close()
    assert not engine.busy


def test_memory_that_holds_no_sequence_is_refused(model, samples):
    with pytest.raises(ConfigError, match=r"kv_bytes=100: .* at least 49152"):
        Engine(model, STOPS, kv_bytes=100)
    small = Engine(model, STOPS, kv_bytes=130 * 384)
    with pytest.raises(DataError, match=r"kv_bytes\) holds 128"):
        small.generate(samples[5:], HOWS[0])


def test_samples_that_are_scored_together_are_those_scored_alone(monkeypatch):
    checkpoint, encoder = tiny.checkpoint(), tiny.encoder()
    talks = [("What color?", "red"), ("Say a word.", "It is a blue one."), ("Which?", "no")]
    samples = [encoder.encode(Conversation((user(asked), assistant(said)))) for asked, said in talks]
    engine = Engine(checkpoint.model, frozenset())
    together = engine.score(samples)
    for limit in ("TOKENS", "LOGITS"):
        with monkeypatch.context() as patch:
            patch.setattr(f"llavakit.engine.scoring.{limit}", 1)
            for one, other in zip(together, engine.score(samples), strict=True):
                assert one == pytest.approx(other, abs=1e-4)
    assert [len(each) for each in together] == [sum(w > 0 for w in each.weights) for each in samples]
