"""Every format reads its own verdicts, the last of them, and nothing else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError, DataError
from llavakit.critic.formats import FORMATS, OUTSIDE, PAIRWISE, POINTWISE, UNREAD, choose, recognise
from llavakit.data.cases import Case
from llavakit.text.conversation import Image

PICTURE = Image(b"x")
PAIR = Case("a", "Which {one}?", (PICTURE,), ("it is red", "it is blue"))
FULL = Case("b", "Which?", (PICTURE,), ("it is red",), reference="It is green.", context="A green ball.")
BLIND = {"llava-bench", "mmhal", "mm-vet"}


@pytest.mark.parametrize("name", FORMATS)
def test_every_verdict_is_read_as_its_value(name):
    form = FORMATS[name]
    assert len(form.verdicts) >= 2
    for verdict, value in form.verdicts.items():
        assert form.read(form.lead + verdict).value == pytest.approx(value), verdict


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ["", "I cannot see the image.", "Both have something.", "[", "🙂"])
def test_nonsense_is_not_read(name, text):
    assert FORMATS[name].read(text) == UNREAD


@pytest.mark.parametrize("name", FORMATS)
@given(text=st.text(max_size=60))
def test_any_text_is_read_or_not(name, text):
    form, reading = FORMATS[name], FORMATS[name].read(text)
    assert (reading.value is None) == bool(reading.problem)
    assert reading.value is None or min(form.verdicts.values()) <= reading.value <= max(
        form.verdicts.values()
    )


OUT_OF_RANGE = {
    "score": "Score: 140", "caption": "Final Score: -3", "llava-bench": "9 12\nGood.", "wilder": "10 0\nBad.",
    "mmhal": "Rating: 9", "mm-vet": "Score: 7", "refomb": "Rating: 5", "vibe": "Rating: 0", "scores": "11 3",
}  # fmt: skip


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_numbers_outside_the_scale_are_told_apart(name):
    assert FORMATS[name].read(OUT_OF_RANGE[name]) == OUTSIDE


LAST = {
    "better": ("The better response: [1]? No. The better response: [2]", 1.0),
    "better-letters": ("One could say [A], but **The better response: [B]**.", 1.0),
    "better-words": ("The better response: [equally good]. In the end the better response is [first].", -1.0),
    "arena": ("Not [[A>>B]]. My final verdict is: [[B>A]]", 0.5),
    "letters": ("[[B]] at first sight. [[A]]", -1.0),
    "boxed": ("\\boxed{1} ... \\boxed{2}", 1.0),
    "score": ("Score: 30 for style. Final score: 80/100.", 80.0),
    "caption": ("Final Score: 20. No, **Final Score**: 75", 75.0),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_verdict_counts(name):
    text, value = LAST[name]
    assert FORMATS[name].read(text).value == value


def test_ties_in_words_are_ties():
    for text in ("The better response: [equally good]", "Both responses are equally good.", "[tie]"):
        assert FORMATS["better"].read(text).value == 0.0


@pytest.mark.parametrize("form", PAIRWISE, ids=lambda form: form.name)
def test_both_orders_ask_about_the_same(form):
    [one], [two] = (form.ask(PAIR, swapped=swapped).messages for swapped in (False, True))
    assert one.media == (PICTURE,) and sorted(one.text) == sorted(two.text) and one.text != two.text
    assert one.text.index("it is red") < one.text.index("it is blue") and "Which {one}?" in one.text
    assert two.text.index("it is blue") < two.text.index("it is red")
    assert "{{" not in one.text.replace("Which {one}?", "")


@pytest.mark.parametrize("form", POINTWISE, ids=lambda form: form.name)
def test_one_answer_is_asked_about_with_what_the_format_needs(form):
    [message] = form.ask(FULL).messages
    assert message.text.count("it is red") == 1 and ("It is green." in message.text) == (
        "reference" in form.needs
    )
    assert (message.media == ()) == (form.name in BLIND)
    for name in form.needs:
        bare = Case("b", "Which?", (), ("red",), **({"reference": "r", "context": "c"} | {name: ""}))
        with pytest.raises(
            DataError, match=f"case 'b' has no '{name}', which the format '{form.name}' needs"
        ):
            form.ask(bare)


RELEASED = {
    "Reasons. The better response: [second]": ("better", 1.0),
    "Both responses are equally good.": ("better", 0.0),
    "My final verdict is tie: [[A=B]]": ("arena", 0.0),
    "7 9\nAssistant 2 says more.": ("scores", 2 / 9),
    "It is close.\nFinal Score: 62": ("caption", 62.0),
    "No hallucination.\nRating: 5": ("mmhal", 5.0),
    "Score: 81. Clear and true.": ("score", 81.0),
    "0.5": ("score", 0.5),
}


def test_rows_of_the_critic_are_recognised_by_their_verdict():
    for text, (name, value) in RELEASED.items():
        form, found = recognise(text)
        assert (form.name, found) == (name, pytest.approx(value)), text
    assert recognise("No verdict.") is None


def test_formats_are_chosen_by_name():
    assert choose(None, 1).name == "score" and choose(None, 2).name == "better"
    with pytest.raises(ConfigError, match="unknown format for 2 answers 'mmhal'"):
        choose("mmhal", 2)


# What a judge repeats until its tokens end.
ENDLESS = [
    "1" * 4000, "9" * 400 + " out of 10", "Score: " + "8" * 400, "Therefore" + " " * 8000, "[" * 8000, "{" * 8000,
    "Rating: " * 1000, "Therefore Answer 1 is " * 400, "\\boxed{" * 1000, "better response " * 500,
    "'score': " * 800,
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_judge_that_never_ends_is_unread_in_no_time(name):
    start = time.process_time()
    readings = [FORMATS[name].read(text) for text in ENDLESS]
    assert time.process_time() - start < 2
    assert all(reading.value is None and reading.problem for reading in readings)
    assert all(recognise(text) is None for text in ENDLESS[:2])
