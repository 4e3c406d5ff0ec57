"""The parts that rows go through: doubles, languages, filters, figures, facts, pace, the page for people."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage import data

from llavakit.align.collect.run import open_session
from llavakit.align.collect.session import Rules
from llavakit.chat import Chat
from llavakit.core.number_map import NumberMap
from llavakit.core.pace import Pace
from llavakit.engine.sampler import Sampling
from llavakit.rules.languages import language_of
from llavakit.rules.shingles import SimilarTexts, overlap
from llavakit.synth import filters
from llavakit.synth.draft import Draft, Turn
from llavakit.synth.facts import Facts
from llavakit.synth.figures import Sample, diversity
from llavakit.synth.held import Held
from llavakit.synth.items import Items
from llavakit.synth.people import Acceptance, read_acceptance
from llavakit.synth.replies import Description, Rating, Unread, VideoQuestions, read_reply, schema_of
from llavakit.synth.settings import SynthConfig
from llavakit.synth.writers import open_writer
from llavakit.text.conversation import Conversation, Image, user
from llavakit.vision.likeness import SimilarPictures, likeness
from tests import tiny
from tests.serve.live import service
from tests.synth.endpoint import prose

# A machine that is busy is no flaw of these.
UNHURRIED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CONFIG = SynthConfig(kind="detail", language="en")


@UNHURRIED
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40)), max_size=40))
def test_a_map_of_numbers_is_a_dict(pairs):
    found, known = NumberMap(places=4), {}
    for key, value in pairs:
        found.put(key, value)
        known[key] = value
    assert len(found) == len(known) and all(found.get(key) == value for key, value in known.items())
    assert found.get(2**63 + 12345) == known.get(2**63 + 12345)


@UNHURRIED
@given(st.integers(0, 10**6))
def test_a_text_is_met_again_and_another_one_is_not(seed):
    text, texts = prose(str(seed), 120), SimilarTexts(0.6)
    assert texts.meet(text) is None and texts.meet(prose(f"{seed} other", 120)) is None
    assert texts.meet(text.upper()) == 0 and len(texts) == 2


def test_texts_with_four_words_changed_are_met_as_often_as_the_bands_promise():
    """MinHash is a draw: two texts that overlap by 0.8 and more share a band 95 times in 100, not always."""
    met = 0
    for seed in range(300):
        words, texts = prose(str(seed), 120).split(), SimilarTexts(0.6)
        assert texts.meet(" ".join(words)) is None
        for at in range(4):
            words[at * 25] = "changed"
        assert overlap(prose(str(seed), 120), " ".join(words)) >= 0.8
        met += texts.meet(" ".join(words)) == 0
    assert met >= 0.95 * 300


def test_short_texts_are_never_doubles():
    texts = SimilarTexts(0.8)
    assert [texts.meet("red"), texts.meet("red"), texts.meet("a red"), len(texts)] == [None, None, None, 3]


def test_photos_are_met_at_another_size_and_quality_and_not_in_other_colours():
    photos = [
        PIL.Image.fromarray(photo()) for photo in (data.astronaut, data.chelsea, data.coffee, data.rocket)
    ]
    known = SimilarPictures()
    for photo in photos:
        assert known.find(likeness(photo)) is None
        known.add(likeness(photo))
    for number, photo in enumerate(photos):
        out = io.BytesIO()
        photo.resize((photo.width // 2, photo.height // 2)).save(out, "JPEG", quality=60)
        assert known.find(likeness(PIL.Image.open(out).convert("RGB"))) == number
        swapped = PIL.Image.merge("RGB", photo.split()[::-1])
        assert known.find(likeness(swapped)) is None
    assert likeness(photos[0]).near(likeness(photos[0])) and not likeness(photos[0]).near(likeness(photos[1]))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("There is a red bus on the street, and two people are waiting for it.", "en"),
        ("Auf der Straße steht ein roter Bus, und zwei Leute warten auf ihn.", "de"),
        ("Il y a un bus rouge dans la rue et deux personnes qui attendent.", "fr"),
        ("En la calle hay un autobús rojo y dos personas que lo esperan.", "es"),
        ("На улице стоит красный автобус, его ждут два человека.", "ru"),
        ("街上有一辆红色的公共汽车，两个人在等车。", "zh"),
        ("通りに赤いバスがあり、二人の人がそれを待っています。", "ja"),
        ("거리에 빨간 버스가 있고 두 사람이 기다리고 있습니다.", "ko"),
        ("a red bus", None),
        ("", None),
    ],
)
def test_languages_are_told_apart(text, language):
    assert language_of(text) == language


FOUND = {
    filters.refusal: ("I'm sorry, but I cannot see the image.", "The sign says sorry; I can see a dog."),
    filters.leak: ("According to the captions, a dog runs.", "A dog runs; text on the wall says no."),
    filters.figure_leak: ("As reported, the lung is clear.", "The lung is clear."),
    filters.unknown: ("Its colour is not specified.", "Its colour is red."),
    filters.placeholder: ("Look at <image> here.", "The page says <b>hello</b>."),
    filters.letters: ("half \ud83d of it", "whole 🙂 of it\n"),
    filters.language: ("Auf der Straße steht ein Bus, und zwei Leute warten.", "A red bus is on the street now."),
    filters.Length(2, 4): ("one", "one two three"),
}  # fmt: skip


@pytest.mark.parametrize("find", FOUND)
def test_a_filter_finds_what_it_is_for_and_not_its_like(find):
    bad, good = FOUND[find]
    assert find(Draft((Turn("What is it?", bad),)), CONFIG) and not find(
        Draft((Turn("What is it?", good),)), CONFIG
    )


def test_repetitions_are_found():
    turn = Turn("What is it?", "a dog")
    assert filters.repeated(Draft((turn, turn)), CONFIG) == "what is it"
    assert filters.repeated(Draft((turn, Turn("Why?", "why"))), CONFIG) == "why"
    assert not filters.repeated(Draft((turn, Turn("Where?", "a dog"))), CONFIG)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('{"description": "a dog"}', False),
        ('```json\n{"description": "a dog"}\n```', True),
        ("Here: {'description': 'a dog'", True),
        ('{"description": "a dog", "more": 1}', False),
    ],
)
def test_broken_json_is_mended(text, mended):
    assert read_reply(text, Description) == (Description(description="a dog"), mended)


@pytest.mark.parametrize(
    "text", ["", "no", '{"description": ""}', '{"description": 3}', "[]", '{"score": 9}']
)
def test_what_is_not_of_the_shape_is_not_read(text):
    for kind in (Description, Rating):
        with pytest.raises(Unread):
            read_reply(text, kind)


def test_a_shape_is_closed_all_the_way_down():
    schema = json.loads(schema_of(VideoQuestions))
    inner = schema["$defs"]["ChoiceQuestion"]
    assert schema["additionalProperties"] is inner["additionalProperties"] is False
    assert inner["required"] == ["kind", "question", "options", "right"]


def test_coco_files_are_facts(tmp_path):
    tiny.picture(tmp_path / "a.png")
    pictures = [{"id": 7, "file_name": "a.png", "width": 100, "height": 50}]
    (tmp_path / "captions.json").write_text(
        json.dumps({"images": pictures, "annotations": [{"id": 1, "image_id": 7, "caption": " A dog. "}] * 2})
    )
    boxes = [{"id": 2, "image_id": 7, "bbox": [10, 10, 20, 30], "category_id": 1}]
    told = {"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "instances.json").write_text(json.dumps(told))
    facts = Facts([tmp_path / "captions.json", tmp_path / "instances.json"])
    [item] = Items(tmp_path)
    facts.check([item])
    known = facts.of(item)
    assert known.captions == ("A dog.", "A dog.") and known.boxes[0].corners == (0.1, 0.2, 0.3, 0.8)
    boxes[0]["image_id"] = 8
    (tmp_path / "instances.json").write_text(json.dumps(told))
    with pytest.raises(Exception, match=r"annotation 2 is of image_id 8, not among its 'images'"):
        Facts([tmp_path / "instances.json"])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"image": "a.png", "captions": [3]}, "captions must be a text"),
        ({"image": "a.png", "boxes": [{"label": "x", "box": [0, 0, 12, 9]}]}, "shares of width and height"),
        ({"image": "a.png", "boxes": ["x"]}, "a box is"),
        ({"captions": ["x"]}, "must name its picture"),
        (["x"], "must be an object"),
    ],
)
def test_facts_that_are_none_are_told_with_their_line(tmp_path, row, error):
    (tmp_path / "facts.jsonl").write_text(json.dumps({"image": "b.png"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(Exception, match=rf"facts.jsonl:2: .*{error}"):
        Facts([tmp_path / "facts.jsonl"])


def test_a_name_of_two_pictures_is_no_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        tiny.picture(tmp_path / "pictures" / folder / "x.png")
    (tmp_path / "facts.jsonl").write_text('{"image": "a/x.png"}\n{"image": "b/x.png"}\n')
    Facts([tmp_path / "facts.jsonl"]).check(Items(tmp_path / "pictures"))
    (tmp_path / "facts.jsonl").write_text('{"image": "x.png"}\n')
    with pytest.raises(Exception, match=r"facts\.jsonl:1: 'x\.png' is the name of two pictures"):
        Facts([tmp_path / "facts.jsonl"]).check(Items(tmp_path / "pictures"))


def test_an_evaluation_set_is_found_by_pictures_and_by_words(tmp_path):
    photo, picture = PIL.Image.fromarray(data.chelsea()), tmp_path / "a.png"
    photo.save(picture)
    held = Held(6)
    held.add("exam", [((Image(picture),), ["Which of the two dogs in front is the larger one?"])])
    assert held.find_question(["So tell me: of the two dogs in front, is it so?"])
    assert not held.find_question(["What is it?", "Which dog is the larger one?"])
    assert held.find_picture(likeness(photo.resize((200, 140)))) == f"exam: {picture}"
    assert not held.find_picture(likeness(photo.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)))


def test_a_sample_does_not_depend_on_the_order_and_takes_all_alike():
    one, other = Sample(20), Sample(20)
    for number in range(400):
        one.add(str(number), number)
    for number in reversed(range(400)):
        other.add(str(number), number)
    assert sorted(one.rows()) == sorted(other.rows()) and set(one.rows(5)) <= set(one.rows())
    assert len(one.rows()) == 20 and 100 < sum(one.rows()) / 20 < 300


def test_figures_of_variety():
    same = diversity([[("What is it?", "a red dog")], [("What is it?", "a red dog")]])
    assert same.distinct == (0.5, 0.5, 0.5) and same.overlap == 1 and same.openings == [("what is", 2)]
    assert diversity([]) is None


def test_the_pace_grows_and_is_halved_by_complaints():
    pace = Pace(8, start=2)
    for _ in range(20):
        pace._took(0.1)
    assert pace.limit == 7
    pace.slow_down()
    pace.slow_down()  # of the same overload
    assert pace.limit == 3
    fixed = Pace(8)
    with fixed.turn():
        pass
    assert fixed.limit == 8


def test_requests_that_take_twice_as_long_are_fewer():
    pace = Pace(64, start=8)
    for seconds in [0.1] * 70 + [1.0] * 70:
        pace._took(seconds)
        limit = pace.limit
    assert limit < 8 + 9 and pace.percentile(0.95) == 1.0


def test_a_model_here_is_asked_by_many_threads(tmp_path):
    made = service()
    chat = Chat(made.engine, made.encoder)
    talks = [Conversation((user(f"What {n}?", [tiny.picture(tmp_path / f"{n}.png", n)]),)) for n in range(6)]
    how = [Sampling(max_tokens=9, temperature=1, seed=n) for n in range(6)]
    alone = [chat.answers([talk], sampling=each)[0] for talk, each in zip(talks, how, strict=True)]
    made.close()
    with open_writer(chat, {"model": "tiny", "weights": "w"}) as writer, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(writer.ask, talks, how))
        shaped = writer.ask(talks[0], Sampling(max_tokens=20, json_schema='{"enum": ["red", "blue"]}'))
    assert found == alone and found[0].prompt_tokens > 4 and found[0].answer_tokens == 9
    assert shaped.text in ('"red"', '"blue"')


WILSON = [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (100, 100, 0.963, 1.0)]


@pytest.mark.parametrize(("accepted", "decided", "low", "high"), WILSON)
def test_the_interval_is_wilsons(accepted, decided, low, high):
    assert Acceptance(accepted, decided, 0).interval == pytest.approx((low, high), abs=1e-4)


def test_people_accept_rows_on_the_page_for_pairs(album, asked, run):
    album.add(*[f"w{n}" for n in range(6)])
    assert run(*album.words(asked[0], "conversation"))[0] == 0
    votes = album.folder / "data.votes"
    with open_session([album.folder / "data.sample.json"], votes, [], Rules()) as session:
        for number in range(6):
            task = session.task("ada")
            answer = "I do not accept" not in task.answers[0]
            session.vote("ada", task.item.name, "left" if answer == (number < 4) else "right", None, 4.0)
    assert read_acceptance(votes) == Acceptance(4, 6, 0)
    code, out, _ = run("synth", "accepted", votes)
    assert code == 0 and "4 of 6 rows accepted: 66.7 % (95 % interval 30.0 to 90.3 %)" in out
