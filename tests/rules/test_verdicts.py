"""Verdicts that are dictionaries: the last one counts, and nothing is put in the place of a missing one."""

import pytest

from llavakit.rules.verdicts import detail, dictionary_numbers, prediction

SAID = {
    "{'score': 4}": 4,
    '{"score": 2.5}': 2.5,
    "Not {'score': 1}, but {'score': 3}": 3,
    "As in {'score': 4}: {'score': 2} {see above}": 2,
    "{'why': \"it's red\", 'score': 5,}": 5,
    '```json\n{"score": 1}\n```': 1,
    "{'score': 6}": None,
    "{'score': True}": None,
    "{'score': '4'}": None,
    "{'score': 4": None,
    "{'score': __import__('os')}": None,
    "{'score': " + "9" * 5000 + "}": None,
    "": None,
}


@pytest.mark.parametrize("text", SAID)
def test_a_score_in_a_dictionary(text):
    assert detail(text) == SAID[text]


def test_the_last_answer_counts_and_must_be_whole():
    assert prediction("{'pred': 'no', 'score': 1} No: {'pred': 'Yes', 'score': 4}") == ("yes", 4)
    assert prediction("{'pred': 'yes'}") is prediction("{'pred': 'perhaps', 'score': 2}") is None
    assert dictionary_numbers("{'a': 1, 'b': 2}", ("b", "a")) == [2, 1]
    assert dictionary_numbers("{'a': 1, 'b': True}", ("b", "a")) is None
