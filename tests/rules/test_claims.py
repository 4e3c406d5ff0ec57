"""What answers claim, read strictly; LLaVA-RLHF's symbolic terms as its specification has them."""

import pytest

from llavakit.rules.claims import (
    boxed_answer,
    claimed_letters,
    claimed_yes_no,
    has_format,
    llava_rlhf_choice,
    llava_rlhf_yes_no,
    named_options,
    tagged_answer,
)

OPTIONS = {"A": "a dog", "B": "two cats"}


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. two cats", "B"),
        ("B) two cats", "B"),
        ("Two cats.", "B"),
        ("The answer is B.", "B"),
        ("I think the correct option is **(B)**", "B"),
        ("A. a dog\nB. two cats", "AB"),
        ("The answer is A. No, the answer is B.", "AB"),
        ("A dog plays with it.", ""),
        ("C.", ""),
        ("", ""),
    ],
)
def test_letters_that_are_claimed(text, letters):
    assert claimed_letters(text, OPTIONS) == frozenset(letters)


def test_without_options_any_letter_may_be_claimed():
    assert claimed_letters("C.") == {"C"}
    assert named_options(["a dog", "two cats"]) == named_options(OPTIONS) == OPTIONS
    assert named_options("a dog") == named_options(None) == {}


def test_yes_and_no_are_words():
    assert claimed_yes_no("Yes, it is.") == {"yes"} and claimed_yes_no("no") == {"no"}
    assert claimed_yes_no("Yes and no.") == {"yes", "no"} and claimed_yes_no("I know nothing") == set()


@pytest.mark.parametrize(
    ("text", "boxed", "tagged"),
    [
        (r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}", ""),
        (r"\boxed{1", "", ""),
        ("<answer> 4 </answer> <answer>5\n</answer>", "", "5"),
    ],
)
def test_the_part_that_is_the_answer(text, boxed, tagged):
    assert (boxed_answer(text), tagged_answer(text)) == (boxed, tagged)


GOOD = {
    "think_answer": " <think>a\nb</think>\n<answer>4</answer>\n",
    "think_boxed": r"<think>a</think> It is \boxed{4}.",
    "answer": "<answer>4</answer>",
    "boxed": r"It is \boxed{4}.",
}


@pytest.mark.parametrize("style", GOOD)
def test_every_style_has_its_own_form(style):
    assert has_format(GOOD[style], style)
    assert [other for other, text in GOOD.items() if has_format(text, style)] == [
        other for other in GOOD if other == style or (style == "boxed" and other == "think_boxed")
    ]
    assert not has_format(GOOD[style] + GOOD[style], style)


@pytest.mark.parametrize(
    "text",
    ["<think>a</think>4", "x<think>a</think><answer>4</answer>", "<think>a<answer>4</answer>", "<answer>4"],
)
def test_what_is_half_a_form_is_none(text):
    assert not has_format(text, "think_answer")


@pytest.mark.parametrize(
    ("kind", "text", "choice", "yes_no"),
    [
        (1, "A. No", 0, 0),
        (2, " A. a dog", 1, 0),
        (2, "The correct option is A. It barks.", 1, 0),
        (2, "A dog", 0, 0),
        (3, "A. a dog", 0, 0),
        (5, "D.", 1, 0),
        (6, "No, there is none.", 0, 0.5),
        (6, "Yes.", 0, -0.5),
        (6, "There is none.", 0, 0),
        (7, "Yes.", 0, 0),
        (7, "No.", 0, 0),
    ],
)
def test_llava_rlhfs_symbolic_terms(kind, text, choice, yes_no):
    assert (llava_rlhf_choice(text, kind), llava_rlhf_yes_no(text, kind)) == (choice, yes_no)
