"""The pictures of docs/agent.md are made by runs that still go as they show."""

import pytest

from benchmarks import agent_screens


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("agent-blur", "There is 1 person. [call_1] I have blurred 1 face. [call_2] [call_3]"),
        ("agent-ocr", "lines and begins with:"),
        ("agent-count", "I count 1 cup. [call_1]"),
    ],
)
def test_a_run_on_a_photo_goes_as_the_document_shows_it(tmp_path, name, says):
    answer = agent_screens.draw(name, tmp_path)
    assert says in answer and "[missing" not in answer
    assert "call_1" in (tmp_path / f"{name}.svg").read_text()
    assert (tmp_path / f"{name}.jpg").exists() == (name == "agent-blur")
