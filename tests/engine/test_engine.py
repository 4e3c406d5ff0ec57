"""The engine against recomputing everything, alone and in company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.core.types import Segment
from llavakit.data.encode import Sample
from llavakit.data.pack import collate
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, assistant, user
from tests import tiny

GREEDY = Sampling(max_tokens=9)


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Prompts of different lengths: with one image, two, none, and several about the same image."""
    folder = tmp_path_factory.mktemp("images")
    a, b = (tiny.picture(folder / f"{n}.png", n) for n in (1, 2))
    encoder = tiny.encoder()
    talks = [
        (user("What color?", [a]),),
        (user("What color is the shape, please?", [a]),),
        (user("Yes?", [a]), assistant("no"), user("Sure?")),
        (user("Both?", [a, b]),),
        (user("Say a word."),),
        (user("What color?", [b]),),
        (user("What color?", [b]),),
    ]
    return [encoder.encode(Conversation(talk), open_turn=True) for talk in talks]


def recompute(model, sample: Sample, count: int, stops=frozenset()) -> list[int]:
    """Greedy without a cache: the whole sequence again for every token. Quadratic, obviously right."""
    ids: list[int] = []
    tiles = [media.tiles() for media in sample.media]
    for _ in range(count):
        whole = (*sample.ids, *ids)
        so_far = Sample(whole, (0.0,) * len(whole), (Segment(0, len(whole)),), sample.media)
        with torch.no_grad():
            hidden = model.hidden(collate([so_far], tiles, learn=False))
            token = int(model.logits(hidden[-1:]).argmax())
        if token in stops:
            break
        ids.append(token)
    return ids


def test_equals_recomputing_everything(model, samples):
    assert Engine(model, frozenset()).generate(samples, GREEDY) == [recompute(model, s, 9) for s in samples]


@pytest.mark.parametrize("max_sequences", [1, 2, 3, 64])
def test_batched_equals_single(model, samples, max_sequences):
    together = Engine(model, frozenset(), max_sequences=max_sequences).generate(samples, GREEDY)
    alone = [Engine(model, frozenset()).generate([sample], GREEDY)[0] for sample in samples]
    assert together == alone


@settings(max_examples=12, deadline=None, derandomize=True)
@given(stops=st.sets(st.integers(0, 520), max_size=120), limit=st.integers(1, 12))
def test_sequences_that_stop_early_do_not_disturb_the_rest(model, samples, stops, limit):
    engine = Engine(model, frozenset(stops))
    expected = [recompute(model, sample, limit, frozenset(stops)) for sample in samples]
    assert engine.generate(samples, Sampling(max_tokens=limit)) == expected


def test_growing_beyond_the_first_slots_changes_nothing(model, samples):
    long = Sampling(max_tokens=150)
    assert Engine(model, frozenset()).generate(samples[:2], long) == [
        recompute(model, s, 150) for s in samples[:2]
    ]


def test_sampling_is_the_same_alone_in_company_and_again(model, samples):
    hot = Sampling(temperature=1.5, top_p=0.9, max_tokens=8, seed=7)
    engine = Engine(model, frozenset())
    first = engine.generate(samples, hot)
    assert first == engine.generate(samples, hot)
    assert first[0] == engine.generate(samples[:1], hot)[0]
    assert first != engine.generate(samples, hot.model_copy(update={"seed": 99}))


def test_streaming_gives_the_same_ids_as_they_are_made(model, samples):
    engine = Engine(model, frozenset())
    order = list(engine.stream(samples[:3], GREEDY))
    assert [index for index, _ in order[:3]] == [0, 1, 2], "sequences advance side by side"
    rebuilt = [[token for index, token in order if index == n] for n in range(3)]
    assert rebuilt == engine.generate(samples[:3], GREEDY)


def test_the_context_is_never_overrun(model):
    long = Sample((5,) * 510, (0.0,) * 510, (Segment(0, 510),))
    assert len(Engine(model, frozenset()).generate([long], Sampling(max_tokens=50))[0]) == 2
    with pytest.raises(DataError, match=r"512 tokens.*is 512"):
        Engine(model, frozenset()).generate([Sample((5,) * 512, (0.0,) * 512, (Segment(0, 512),))], GREEDY)


def test_a_sample_that_is_told_to_end_does_and_its_neighbours_go_on(model, samples):
    free = Engine(model, frozenset()).generate(samples[:3], GREEDY)
    told: list[list[int]] = [[], [], []]

    def ends(index: int, token: int) -> bool:
        told[index].append(token)
        return index == 1 and len(told[1]) == 2

    said: list[list[int]] = [[], [], []]
    for index, token in Engine(model, frozenset()).stream(samples[:3], GREEDY, ends):
        said[index].append(token)
    assert said == told == [free[0], free[1][:2], free[2]]
