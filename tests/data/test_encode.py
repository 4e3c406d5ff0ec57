"""Conversation to sample: one list of ids, whether turns are chained, apart, or share a prefix."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.core.types import IMAGE_ID, Segment, segment_positions
from llavakit.data.encode import Encoder, Sample, join
from llavakit.text.conversation import Conversation, Message, assistant, system, user
from llavakit.text.templates import template
from tests import tiny

KINDS = sorted(tiny.TOKENIZERS)
ENCODERS = {name: tiny.encoder(name) for name in KINDS}
ANSWERS = st.lists(st.sampled_from(["red", "blue", "red circle", "It is red.", "no"]), min_size=1, max_size=4)


def paths(sample: Sample) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Ids and weights along every way from the first token to a leaf's last one."""
    parents = {segment.parent for segment in sample.segments}
    ways = []
    for number in range(len(sample.segments)):
        if number in parents:
            continue
        chain, at = [], number
        while at is not None:
            chain.insert(0, sample.segments[at])
            at = sample.segments[at].parent
        ids = tuple(token for part in chain for token in sample.ids[part.start : part.end])
        weights = tuple(weight for part in chain for weight in sample.weights[part.start : part.end])
        ways.append((ids, weights))
    return ways


def alone(samples: list[Sample]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(sample.ids, sample.weights) for sample in samples]


def questions(picture, count: int = 3) -> Conversation:
    messages: list[Message] = []
    for number in range(count):
        images = [picture] if picture is not None and number == 0 else []
        messages += [
            user(f"Question {'abc'[number]}?", images),
            assistant(["red", "a blue circle", "no"][number]),
        ]
    return Conversation(tuple(messages))


def apart(encoder: Encoder, conversation: Conversation) -> list[Sample]:
    return [encoder.encode(turn) for turn in conversation.turns()]


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_independent_turns_are_separate_encodes_that_share_a_prefix(kind, count, pictured, tmp_path):
    picture = tiny.picture(tmp_path / "a.png") if pictured else None
    conversation = questions(picture, count)
    together = ENCODERS[kind].encode_turns(conversation)
    separate = apart(ENCODERS[kind], conversation)
    assert together == join(separate)
    assert paths(together) == alone(separate)
    if count > 1 and pictured:
        assert [segment.parent for segment in together.segments] == [None] + [0] * count
        assert together.ids.count(IMAGE_ID) == 4  # the image stands there once
        assert together.num_tokens < sum(sample.num_tokens for sample in separate)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), answers=ANSWERS)
def test_joined_answers_are_the_separate_sequences(kind, answers):
    """Also for equal answers, and for one that begins like another."""
    separate = [ENCODERS[kind].encode(Conversation((user("What color?"), assistant(a)))) for a in answers]
    joined = join(separate)
    assert paths(joined) == alone(separate)
    assert joined.length == max(sample.num_tokens for sample in separate)
    assert joined.num_inputs == joined.num_tokens - len(answers)
    assert len(joined.leaves) == len(answers)
    if len(answers) > 1:
        parent = joined.segments[0]
        assert not any(joined.weights[parent.start : parent.end])  # what is learned is never shared


def test_joined_positions_go_on_from_the_parent():
    separate = [
        ENCODERS["chatml"].encode(Conversation((user("What?"), assistant(a)))) for a in ("red", "a circle")
    ]
    joined = join(separate)
    positions = segment_positions(joined.segments)
    shared = len(joined.segments[0])
    for segment, sample in zip(joined.segments[1:], separate, strict=True):
        assert positions[segment.start : segment.end] == list(range(shared, sample.num_tokens))


def test_samples_that_share_nothing_are_segments_side_by_side():
    first = Sample((1, 2), (0.0, 1.0), (Segment(0, 2),))
    second = Sample((3, 4), (0.0, 1.0), (Segment(0, 2),))
    joined = join([first, second])
    assert joined.segments == (Segment(0, 2), Segment(2, 4))
    assert joined.ids == (1, 2, 3, 4)


def test_different_images_are_not_joined(tmp_path):
    first, second = tiny.picture(tmp_path / "a.png", 1), tiny.picture(tmp_path / "b.png", 2)
    encoder = ENCODERS["chatml"]
    samples = [encoder.encode(Conversation((user("q", [p]), assistant("a")))) for p in (first, second)]
    with pytest.raises(ValueError, match="different images"):
        join(samples)


def test_samples_that_differ_before_their_image_are_not_joined(tmp_path):
    picture = tiny.picture(tmp_path / "a.png")
    encoder = ENCODERS["chatml"]
    samples = [
        encoder.encode(Conversation((system(text), user("q", [picture]), assistant("a"))))
        for text in ("one", "two")
    ]
    with pytest.raises(ValueError, match="alike up to their last image"):
        join(samples)


def test_later_images_stand_in_front_of_every_independent_question(tmp_path):
    first, second = tiny.picture(tmp_path / "a.png", 1), tiny.picture(tmp_path / "b.png", 2)
    talk = Conversation((user("one?", [first]), assistant("a"), user("two?", [second]), assistant("b")))
    sample = ENCODERS["chatml"].encode_turns(talk)
    assert [media.source for media in sample.media] == [first, second]
    assert [ids.count(IMAGE_ID) for ids, _ in paths(sample)] == [8, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_has_its_slots_in_order(kind, tmp_path):
    pictures = [tiny.picture(tmp_path / f"{number}.png", number) for number in range(3)]
    talk = Conversation(
        (user("which?", pictures[:2]), assistant("a"), user("and?", pictures[2:]), assistant("b"))
    )
    sample = ENCODERS[kind].encode(talk)
    assert [media.source for media in sample.media] == pictures
    assert sample.ids.count(IMAGE_ID) == sum(media.plan.num_tokens for media in sample.media) == 12
    assert all(w == 0 for token, w in zip(sample.ids, sample.weights, strict=True) if token == IMAGE_ID)
    assert sample.segments == (Segment(0, sample.num_tokens),)


def test_nothing_is_learned_after_the_last_token():
    for encoder in ENCODERS.values():
        assert encoder.encode(questions(None)).weights[-1] == 1.0


def test_roles_are_checked_for_independent_turns_too():
    with pytest.raises(DataError, match="roles must be"):
        ENCODERS["chatml"].encode_turns(Conversation((user("a"), user("b"), assistant("c"))))
    with pytest.raises(DataError, match="last message"):
        ENCODERS["chatml"].encode_turns(Conversation((user("a"),)))


def test_a_missing_picture_is_found_while_planning(tmp_path):
    with pytest.raises(DataError, match=r"image not found: .*gone\.png"):
        ENCODERS["chatml"].encode(Conversation((user("q", [tmp_path / "gone.png"]), assistant("a"))))


def test_what_does_not_fit_the_context_names_both_numbers_and_the_setting(tmp_path):
    talk = Conversation((user("What color?", [tiny.picture(tmp_path / "a.png")]), assistant("red")))
    whole = tiny.encoder().encode(talk)
    fitting = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE, context=whole.length)
    assert fitting.encode(talk) == whole
    short = Encoder(tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE, context=whole.length - 1)
    message = (
        f"{whole.length} tokens .4 of images and videos. do not fit .* context of {whole.length - 1}; .*"
    )
    with pytest.raises(DataError, match=message + "model.rope_factor=2"):
        short.encode(talk)
    # A context that is stretched already: the factor counts from the decoder as it was.
    scaled = Encoder(
        tiny.byte_level_tokenizer(), template("chatml"), tiny.IMAGE, context=whole.length - 1, stretched=2
    )
    with pytest.raises(DataError, match=r"model\.rope_factor=3 \(now 2\)"):
        scaled.encode(talk)


@pytest.mark.parametrize("name", KINDS)
def test_answers_count_in_the_loss_what_they_weigh(name):
    encoder = ENCODERS[name]
    talk = Conversation(tuple(m for at in range(3) for m in (user(f"one {at}"), assistant("red yes"))))
    plain = encoder.encode(talk)
    messages = list(talk.messages)
    for at, weight in ((1, 0.0), (3, 0.5)):
        messages[at] = replace(messages[at], weight=weight)
    weighed = encoder.encode(Conversation(tuple(messages)))
    assert weighed.ids == plain.ids
    learned = [[w for w in sample.weights if w] for sample in (plain, weighed)]
    third = len(learned[0]) // 3
    assert learned == [[1.0] * 3 * third, [0.5] * third + [1.0] * third]
    turns = encoder.encode_turns(Conversation(tuple(messages)))
    assert len(turns.leaves) == 2  # a question whose answer counts nothing is of no use alone
    assert sum(turns.weights) == 1.5 * third
