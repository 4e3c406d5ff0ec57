import pytest

from llavakit.rules.thinking import strip_thinking


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<think>A?\nB.</think>\n C", "C"),
        ("It may be A.</think>\n\nB", "B"),  # the template said <think>
        ("<think>It may be A or", ""),  # cut
        ("A <think>", "A <think>"),
        ("<think>a</think>b</think>", "b</think>"),
        ("plain", "plain"),
    ],
)
def test_thinking_is_no_part_of_an_answer(said, answer):
    assert strip_thinking(said) == answer
