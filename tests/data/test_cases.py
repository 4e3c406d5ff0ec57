"""Cases in every layout, and what is wrong with rows that are none."""

import json

import pytest

from llavakit.core.errors import DataError
from llavakit.data.cases import Case, of_answers, read_cases
from llavakit.text.conversation import Image
from tests import tiny


def written(folder, *rows):
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OWN = {"id": "a", "image": "x.png", "question": "Which?", "reference": "red", "group": "colour"}


def test_own_rows(tmp_path):
    path = written(
        tmp_path,
        OWN | {"answer": "red", "label": 7},
        OWN | {"id": "b", "answers": ["red", "blue"], "label": 1},
        {"question": "Which?", "answers": ["red", "blue", "green"]},
        {"question": "Which?", "answers": ["red", "blue"], "label": "tie"},
    )
    one, two, many, tie = read_cases(path)
    assert one == Case("a", "Which?", (Image(tmp_path / "x.png"),), ("red",), "red", "", 7.0, "colour")
    assert (two.answers, two.label) == (("red", "blue"), -1.0)
    assert (many.id, len(many.answers), many.label, many.media) == ("3", 3, None, ())
    assert tie.label == 0.0
    with pytest.raises(DataError, match="case 'a' has 1 answers, not 2"):
        of_answers([one], 2, 2, path)
    with pytest.raises(DataError, match="case '3' has 3 answers, not 2"):
        of_answers([two, many], 2, 2, path)


def test_pairs_of_answers_are_cases_whose_first_answer_won(tmp_path):
    path = written(
        tmp_path,
        {"image": "x.png", "prompt": "<image>\nWhich?", "chosen": "red", "rejected": "blue"},
        {
            "conversations": [
                {"from": "human", "value": "Hello"},
                {"from": "gpt", "value": "Hi"},
                {"from": "human", "value": "Which?"},
                {"from": "gpt", "value": ""},
            ],
            "output_1": {"from": "gpt", "value": "blue"},
            "output_2": {"from": "gpt", "value": "red"},
            "preference": 2,
        },
    )
    plain, talk = read_cases(path)
    assert (plain.question, plain.answers, plain.label) == ("Which?", ("red", "blue"), -1.0)
    assert talk.question == "user: Hello\nassistant: Hi\nuser: Which?" and talk.answers == ("red", "blue")


def test_vl_reward_bench(tmp_path):
    row = {"query": "Which?", "image": "x.png", "response": ["red", "blue"], "human_ranking": [0, 1]}
    path = written(
        tmp_path,
        row | {"id": "RLAIF-V-1"},
        row | {"id": "mathverse_2", "human_ranking": [1, 0]},
        row | {"id": "WildVision-3"},
    )
    cases = read_cases(path)
    assert [(case.label, case.group) for case in cases] == [
        (-1.0, "hallucination"), (1.0, "reasoning"), (-1.0, "general"),
    ]  # fmt: skip


def test_multimodal_reward_bench(tmp_path):
    row = {"Text": "Which?", "Image": "x.png", "Output1": "red", "Output2": "blue", "Better": "Output2"}
    rows = [
        ("PAIRS_1", "safety"),
        ("h_2", "safety"),
        ("math_3", "reasoning"),
        ("c_4", "reasoning"),
        ("d", "vqa"),
    ]
    path = written(tmp_path, *(row | {"ID": name, "Category": category} for name, category in rows))
    assert [case.group for case in read_cases(path)] == [
        "safety/bias", "safety/toxicity", "reasoning/math", "reasoning/coding", "vqa",
    ]  # fmt: skip
    assert read_cases(path)[0].label == 1.0


def test_rows_of_the_critic_bring_their_prompt(tmp_path):
    row = tiny.record(1, "x.png", [("Judge. ASSISTANT:\n", "Good. Final Score: 80")]) | {"source": "a"}
    [case] = read_cases(written(tmp_path, row))
    assert case.asked and case.question == "Judge. ASSISTANT:" and case.verdict == "Good. Final Score: 80"


MISTAKES = {
    "no case": ({"text": "?"}, r":2: no case: it has 'text'. Read are pairs of answers; two answers or"),
    "a number as an answer": (OWN | {"answers": ["red", 3]}, r":2: 'answers' must be a list of texts"),
    "a label of another kind": (OWN | {"answer": "red", "label": "good"}, r":2: 'label' of one answer is a number"),
    "a winner that is none": (OWN | {"answers": ["a", "b"], "label": 3}, r":2: 'label' of two answers is 1, 2 or"),
    "a ranking of others": (OWN | {"answers": ["a", "b"], "ranking": "AC"}, r":2: 'ranking' is 'AC', not each"),
    "a third ranking": (
        {"id": "mmmu_1", "query": "?", "response": ["a", "b"], "human_ranking": [1, 1]}, r"'response' must be two",
    ),
    "a group of its own": (
        {"id": "new-1", "query": "?", "response": ["a", "b"], "human_ranking": [1, 0]}, r"of no known group",
    ),
    "equal answers": ({"prompt": "?", "chosen": "a", "rejected": "a"}, r":2: chosen and rejected are equal$"),
    "no object": ([1], r":2: a record must be an object, found list$"),
    "twice": (OWN | {"answer": "red"}, r"1 ids are there twice, 'a' first"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_place(tmp_path, mistake):
    row, told = MISTAKES[mistake]
    with pytest.raises(DataError, match=told):
        read_cases(written(tmp_path, OWN | {"answer": "red"}, row))


def test_mllm_as_a_judge(tmp_path):
    about = {"id": 8, "instruction": "How high?", "image_path": "8.jpg", "original_dataset": "coco"}
    answers = {"answer1": {"name": "one", "answer": "High."}, "answer2": {"name": "two", "answer": "Low."}}
    pairs = [about | answers | {"pair_id": at, "human_answer": said} for at, said in enumerate("ABC")]
    found = read_cases(written(tmp_path, *pairs))
    assert [(case.id, case.label) for case in found] == [("0", -1), ("1", 1), ("2", 0)]
    assert found[0].answers == ("High.", "Low.") and found[0].group == "coco"
    assert found[0].media == (Image(tmp_path / "8.jpg"),)
    scores = [about | {"score_id": at, "answer": "High.", "human": said} for at, said in enumerate((3, "4"))]
    assert [case.label for case in read_cases(written(tmp_path, *scores))] == [3.0, 4.0]


def test_rankings_of_mllm_as_a_judge_are_named_by_their_line(tmp_path):
    answers = [{"name": name, "answer": f"{name} says so"} for name in ("llava", "cogvlm", "gpt4", "gemini")]
    row = {
        "id": 200, "instruction": "Which fruit?", "image_path": "image/200.jpg", "original_dataset": "coco",
        "answers": answers, "human_answer": "CDAB",
    }  # fmt: skip
    found = read_cases(written(tmp_path, row, row | {"human_answer": "BACD", "comparison": 2}))
    assert [(case.id, case.ranking, case.group) for case in found] == [
        ("1", "CDAB", "coco"),
        ("2", "BACD", "coco"),
    ]
    assert found[0].answers[3] == "gemini says so" and found[0].label is None
    assert found[0].media == (Image(tmp_path / "image/200.jpg"),)
    for broken, what in (
        ({"human_answer": "CDAA"}, "'human_answer' is 'CDAA', not each of ABCD once"),
        ({"human_answer": 3}, "'human_answer' is 3, not each of ABCD once"),
        ({"answers": answers[:1]}, "'answers' must be a list of at least two objects"),
        ({"answers": "ab"}, "'answers' must be a list of at least two objects"),
        ({"answers": [{"name": "a"}, {"answer": "b"}]}, "'answers' must be a list of at least two objects"),
    ):
        with pytest.raises(DataError, match=f":2: {what}"):
            read_cases(written(tmp_path, row, row | broken))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"pair_id": 0, "human_answer": "D"}, "'human_answer' is 'D', not A, B or C"),
        ({"pair_id": 0, "human_answer": "A", "answer2": {}}, "must hold a text 'answer' each"),
        ({"score_id": 0, "answer": "x", "human": "good"}, "'human' of one answer is a number"),
    ],
)
def test_broken_rows_of_mllm_as_a_judge_are_named(tmp_path, row, what):
    about = {"instruction": "?", "answer1": {"answer": "a"}, "answer2": {"answer": "b"}}
    with pytest.raises(DataError, match=what) as error:
        read_cases(written(tmp_path, about | row))
    assert error.value.line == 1
