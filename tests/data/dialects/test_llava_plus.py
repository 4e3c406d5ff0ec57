"""Records as LLaVA-Plus, LLaVA-Med, LLaVA-RLHF, LLaVA-Critic and M4-Instruct publish them, read as they are."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.data.records import Record, read_records
from llavakit.text.conversation import Conversation, Image, Message, Text, assistant, user

FOLDER = Path("/pictures")
CALL = [{"API_name": "grounding_dino", "API_params": {"caption": "cat . café"}}]
PLUS = {
    "unique_id": "1",
    "image_id": 9,
    "file_name": "000000000009.jpg",
    "data_source": "detection",
    "conversations": [
        {"from": "human", "value": "<image>\nWhere is the cat?"},
        {"from": "gpt", "thoughts": "I need a tool.", "actions": CALL, "value": "Wait."},
        {
            "from": "human",
            "value": "grounding_dino output: {}\n\nAnswer my first question: <image>\nWhere is the cat?",
        },
        {"from": "gpt", "thoughts": "I have the box.", "actions": [], "value": "On the mat."},
    ],
}


def read(raw: object) -> Conversation:
    return Record(raw, FOLDER / "data.json", 1, FOLDER).conversation()


def test_llava_plus_in_the_text_its_weights_learned():
    ask, call, result, answer = read(PLUS).messages
    assert ask == user("\nWhere is the cat?", [FOLDER / "000000000009.jpg"])
    assert call.text == (
        '"thoughts🤔" I need a tool.\n'
        '"actions🚀" [{"API_name": "grounding_dino", "API_params": {"caption": "cat . caf\\u00e9"}}]\n'
        '"value👉" Wait.\n'
    )
    assert result == user("grounding_dino output: {}\n\nAnswer my first question: \nWhere is the cat?")
    assert answer.text == '"thoughts🤔" I have the box.\n"actions🚀" []\n"value👉" On the mat.\n'


def test_rows_without_tools_in_the_same_file_stay_as_they_are():
    plain = {
        "image": "x.png",
        "conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}],
    }
    assert read(plain).messages[1] == assistant("a")


@pytest.mark.parametrize(
    "change", [{"thoughts": 3}, {"actions": "none"}, {"value": None}, {"actions": {"API_name": "x"}}]
)
def test_a_malformed_answer_with_tools_is_one_line(change):
    turns = [PLUS["conversations"][0], PLUS["conversations"][1] | change]
    with pytest.raises(DataError) as caught:
        read(PLUS | {"conversations": turns})
    assert str(caught.value).startswith("/pictures/data.json:1: an answer with tools needs the texts")
    assert "\n" not in str(caught.value)


def test_a_second_image_that_is_missing_is_still_an_error_without_tools():
    turns = [{"from": "human", "value": "<image> <image>"}, {"from": "gpt", "value": "a"}]
    with pytest.raises(DataError, match=r"2 <image> placeholder"):
        read({"image": "x.png", "conversations": turns})


def test_llava_med_with_its_domains_and_its_misspelt_key(tmp_path):
    turns = [{"from": "human", "value": "What is shown?\n<image>"}, {"from": "gpt", "value": "A scan."}]
    row = {"id": "p", "image": "p.jpg", "domain": {"ct_scan": True, "mri": False}}
    path = tmp_path / "med.jsonl"
    path.write_text("\n".join(json.dumps(row | {key: turns}) for key in ("conversations", "conversatons")))
    right, wrong = read_records(path)
    expected = (Text("What is shown?\n"), Image(tmp_path / "p.jpg"))
    assert right.conversation() == wrong.conversation()
    assert right.conversation().messages[0] == Message("user", expected)


def test_the_right_key_wins_over_the_misspelt_one():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read({"conversations": turns, "conversatons": []}) == Conversation((user("q"), assistant("a")))


def test_llava_rlhf_facts_and_bonuses_are_no_part_of_the_talk():
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    row = {"id": "7", "image": "x.jpg", "conversations": turns}
    more = {"captions": ["a cat", "a mat"], "caption_type": 6, "length_bonus": -0.5}
    assert read(row | more) == read(row)


def test_llava_critic_rows_and_many_images_of_m4_instruct():
    verdict = "The second is vague.\nThe better response: [first]"
    turns = [
        {"from": "human", "value": "<image>\nQuestion: [q] first: [a] second: [b]"},
        {"from": "gpt", "value": verdict},
    ]
    assert (
        read({"id": "c", "source": "vlfeedback", "image": "x.jpg", "conversations": turns}).messages[1].text
        == verdict
    )
    turns = [
        {"from": "human", "value": "<image>\n<image>\nWhat changed?"},
        {"from": "gpt", "value": "The light."},
    ]
    m4 = {"sample_id": 3, "image": ["a.jpg", "b.jpg"], "metadata": {"dataset": "d"}, "conversations": turns}
    assert [image.source.name for image in read(m4).images] == ["a.jpg", "b.jpg"]


def test_a_question_after_a_tool_needs_no_picture_of_its_own_and_rows_without_tools_do():
    turns = [{"from": "human", "value": "<image> <image>"}, {"from": "gpt", "value": "a"}]
    with pytest.raises(DataError, match=r"2 <image> placeholder"):
        read({"image_id": 9, "file_name": "9.jpg", "conversations": turns})


def test_bytes_in_the_actions_of_a_table_are_one_line():
    turns = [PLUS["conversations"][0], PLUS["conversations"][1] | {"actions": [{"mask": b"\0"}]}]
    with pytest.raises(DataError, match=r"conversations\[1\]\.actions cannot be written as JSON: .*bytes"):
        read(PLUS | {"conversations": turns})


def test_the_empty_cells_of_a_table_are_not_tools():
    empty = {"thoughts": None, "actions": None}
    turns = [turn | empty for turn in ({"from": "human", "value": "q"}, {"from": "gpt", "value": "a"})]
    assert read({"conversations": turns, "image": None}) == Conversation((user("q"), assistant("a")))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"from": st.sampled_from(["human", "gpt"]), "value": st.text(max_size=8)},
            optional={"thoughts": st.text(max_size=8), "actions": st.just(CALL)},
        ),
        max_size=4,
    ),
    st.sampled_from([{}, {"image": "x"}, {"image_id": 1, "file_name": "y"}, {"file_name": "z"}]),
)
def test_nothing_is_changed_in_place(turns, more):
    raw = {"conversations": turns, **more}
    before = json.dumps(raw)
    with suppress(DataError):
        read(raw)
    assert json.dumps(raw) == before


def test_a_picture_that_a_tool_made_has_a_place_of_its_own():
    turns = [
        PLUS["conversations"][0],
        PLUS["conversations"][1],
        {"from": "human", "value": "<image>zoom model outputs: {}"},
    ]
    turns.append(PLUS["conversations"][3])
    talk = read({"image": ["a.png", "b.png"], "conversations": turns})
    assert [len(message.images) for message in talk.messages] == [1, 0, 1, 0]
