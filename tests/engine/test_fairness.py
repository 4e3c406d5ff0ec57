"""Nobody waits for ever: newcomers come in beside however many answers, and pictures are seen a few at a time."""

import pytest

from llavakit.data.encode import Encoder
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.text.conversation import Conversation, user
from llavakit.text.templates import template
from llavakit.vision.anyres import AnyresConfig
from llavakit.vision.plan import ImageConfig
from tests import tiny

STOPS = frozenset({2})
LONG = Sampling(max_tokens=200, ignore_end=True)


@pytest.fixture(scope="module")
def model():
    return tiny.checkpoint().model


def asking(text, images=()):
    return tiny.encoder().encode(Conversation((user(text, list(images)),)), open_turn=True)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A question about 24 pictures of a tile each."""
    folder = tmp_path_factory.mktemp("images")
    pictures = [tiny.picture(folder / f"{number}.png", number) for number in range(24)]
    return asking("All of them?", pictures)


@pytest.mark.parametrize("step_tokens", [1, 4, 8])
def test_who_comes_late_is_answered_while_more_answers_run_than_a_step_has_tokens(model, step_tokens):
    engine, heard = Engine(model, STOPS, step_tokens=step_tokens), []
    for number in range(8):
        engine.submit(engine.prepare(asking(f"Say {number}"), LONG), lambda event: None)
    while engine.stats().waiting or any(not each.slot.decodes for each in engine._scheduler.running):
        engine.step()
    late = asking("yes no yes")
    engine.submit(engine.prepare(late, LONG), heard.append)
    share, steps = max(1, step_tokens // 4), 0
    while not heard:
        engine.step()
        steps += 1
    assert steps <= -(-len(late.ids) // share)
    assert engine.stats().running == 9


def test_many_pictures_go_through_the_tower_a_few_tiles_a_step(model, album):
    cost = Engine(model, STOPS)._features.tile_tokens
    how = Sampling(max_tokens=9)
    alone = Engine(model, STOPS, step_tokens=10**6).generate([album], how)[0]
    stream = asking("Say a word.")
    undisturbed = Engine(model, STOPS).generate([stream], LONG)[0]
    engine, said, answer = Engine(model, STOPS, step_tokens=4 * cost), [], []
    engine.submit(engine.prepare(stream, LONG), said.append)
    while not said:
        engine.step()
    engine.submit(engine.prepare(album, how), answer.append)
    steps = 0
    while not answer:
        before, tokens = engine.stats(), len(said)
        engine.step()
        steps += 1
        assert engine.stats().tower_tiles - before.tower_tiles <= 4, "no step is longer than others"
        assert len(said) == tokens + 1, "the stream goes on in every step"
    assert engine.stats().tower_tiles == 24 and steps >= 6
    while engine.busy:
        engine.step()
    assert [event.token for event in answer] == alone
    assert [event.token for event in said] == undisturbed


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Two questions about one picture of seven tiles."""
    cut = AnyresConfig(pinpoints=((84, 56),), merge="spatial")
    image = ImageConfig(kind="anyres", size=28, grid=2, anyres=cut)
    encoder = Encoder(tiny.TOKENIZERS["chatml"](), template("chatml"), image)
    picture = tiny.picture(tmp_path_factory.mktemp("images") / "a.png", 3, size=(84, 56))
    return [
        encoder.encode(Conversation((user(text, [picture]),)), open_turn=True) for text in ("Red?", "Blue?")
    ]


def test_a_picture_of_many_tiles_is_seen_over_several_steps(model, tiled):
    """And two who ask about it look at it once."""
    how = Sampling(max_tokens=9)
    alone = [Engine(model, STOPS, step_tokens=10**6).generate([sample], how)[0] for sample in tiled]
    engine = Engine(model, STOPS, step_tokens=2)
    assert engine.generate(tiled, how) == alone
    assert engine.stats().tower_tiles == 7


def test_a_request_that_leaves_takes_its_half_seen_pictures_along(model, tiled):
    engine = Engine(model, STOPS, step_tokens=2)
    number = engine.submit(engine.prepare(tiled[0], LONG), lambda event: None)
    for _ in range(3):
        engine.step()
    assert [view.done for view in engine._features._views.values()] == [3]
    engine.cancel(number)
    assert not engine._features._views


def test_more_pictures_than_are_kept_are_answered_all_the_same(model, album, monkeypatch):
    """The rows of a prompt's first pictures are its own once they are seen, whatever the cache forgets."""
    how = Sampling(max_tokens=9)
    alone = Engine(model, STOPS).generate([album], how)
    monkeypatch.setattr("llavakit.engine.engine.FEATURE_BYTES", 1)
    engine = Engine(model, STOPS, step_tokens=4)
    assert engine.generate([album], how) == alone
    assert engine.stats().tower_tiles == 24
