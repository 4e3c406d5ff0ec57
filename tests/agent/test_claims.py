"""Sentences and the calls they rest on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.agent.claims import Known, check_claims, claims_action, split_sentences

COUNT = Known("call_1", "count_shapes", {"count": 7, "by_color": {"red": 3}}, pictures=False, failed=False)
BLUR = Known("call_2", "blur", {}, pictures=True, failed=False)
OCR = Known(
    "call_3", "ocr", {"lines": [{"text": "Main Street", "score": 0.98}]}, pictures=False, failed=False
)
FAILED = Known("call_4", "blur", {}, pictures=False, failed=True)


@pytest.mark.parametrize(
    ("answer", "calls", "doubt"),
    [
        ("There are 7 shapes.", ("call_1",), ""),
        ("There are seven shapes.", ("call_1",), ""),
        ("There are 8 shapes.", (), ""),
        ("Red ones are there.", ("call_1",), ""),
        ("The count is high.", (), ""),
        ("The sign says Main Street.", ("call_3",), ""),
        ("The sky is blue.", (), ""),
        ("I blurred the faces.", ("call_2",), ""),
        ("The faces have been blurred.", ("call_2",), ""),
        ("It is 7 [call_1].", ("call_1",), ""),
        ("It is 7. [call_9]", ("call_1",), "call_9 does not exist"),
        ("I deleted the file.", ("call_2",), ""),
        ("I can blur the faces for you.", (), ""),
    ],
)
def test_what_a_sentence_rests_on(answer, calls, doubt):
    (sentence,) = check_claims(answer, "What is there?", [COUNT, BLUR, OCR])
    assert (sentence.calls, sentence.doubt) == (calls, doubt)


def test_what_the_question_said_is_no_fact_of_a_tool():
    assert check_claims("Are there 7? Yes.", "Are there 7 shapes?", [COUNT])[0].calls == ()


def test_a_claim_whose_call_failed_is_doubted():
    for text in ("I blurred the faces.", "I have now blurred them.", "The faces have been blurred."):
        assert check_claims(text, "", [FAILED])[0].doubt == "no call did this"
    assert check_claims("Done [call_4].", "", [FAILED])[0].doubt == "call_4 failed"
    assert check_claims("I counted them: 5.", "", [])[0].doubt == "no call did this"


def test_sentences_end_where_they_end():
    text = "It is 3.5 wide. [call_1] Is it? Yes!\nNew line"
    assert split_sentences(text) == ["It is 3.5 wide. [call_1]", "Is it?", "Yes!", "New line"]


def test_words_of_doing():
    assert claims_action("We have rotated it.") == "rotat"
    assert claims_action("I used the tool.") == "us"
    for text in ("I see a mask.", "The painted wall", "He removed his hat.", "I am sure", "I use it"):
        assert claims_action(text) is None or text == "I use it"


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_no_text_is_lost(text):
    sentences = check_claims(text, text, [COUNT, OCR])
    assert "".join("".join(one.text.split()) for one in sentences) == "".join(text.split())


def test_a_number_that_a_named_call_gave_is_not_another_calls_too():
    """Two calls gave a 1: the sentence names the one that it rests on."""
    people = Known("call_1", "detect", {"counts": {"person": 1}}, pictures=False, failed=False)
    faces = Known("call_2", "faces", {"count": 1}, pictures=False, failed=False)
    named, bare = check_claims("There is 1 person. [call_1]\nThere is 1 face.", "How many?", [people, faces])
    assert named.calls == ("call_1",) and bare.calls == ("call_1", "call_2")


def test_all_marks_of_a_sentence_belong_to_it():
    first, second, third = (
        "There is 1. [call_1]",
        "I have blurred 1 face. [call_2] [call_3]",
        "It is done. [call_3]",
    )
    assert split_sentences(f"{first} {second} {third}") == [first, second, third]
