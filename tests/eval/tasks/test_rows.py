"""What single rows do beyond the common tests, each by hand."""

import io
import json
import zipfile

import pytest

from llavakit.core.errors import DataError
from llavakit.data.layouts import interleaved, video_at
from llavakit.eval.plan import plan_tasks
from llavakit.eval.run import evaluate
from llavakit.eval.tasks import hallucination, medical, reasoning, several_pictures
from llavakit.eval.tasks.table import BENCHMARKS
from llavakit.rules.captions import rouge_l_f1
from llavakit.rules.short_answers import contains, contains_folded
from llavakit.text.conversation import Image, Text, Video
from tests.eval.layouts import written
from tests.eval.responders import always
from tests.eval.tasks.test_table import folders, oracle, score  # noqa: F401  the fixture is used by its name
from tests.eval.test_run import WHO


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "Which?\nOptions: A: a red cat, B: dog, or so, C: U.S.A. flag",
            ["a red cat", "dog, or so", "U.S.A. flag"],
        ),
        ("Which?\nA. left\nB. right\nPlease answer with the letter.", ["left", "right"]),
        ("How?\nChoices:\nA:1\nB:2\nC:3", ["1", "2", "3"]),
        ("How many?", []),
    ],
)
def test_options_are_found_in_a_question(text, options):
    assert list(reasoning.inline_options(text).values()) == options


def test_pictures_stand_where_they_are_named_and_the_others_in_front():
    a, b, c = b"a", b"b", b"c"
    assert interleaved("x <image> y", [a]) == (Text("x "), Image(a), Text(" y"))
    assert interleaved("<image><image>?", [a, b, c]) == (Image(a), Image(b), Image(c), Text("?"))
    assert interleaved("<image> or <image>", [a]) == (Image(a), Text(" or "))


def test_a_video_is_found_with_any_ending_and_named_where_it_is_missing(tmp_path):
    (tmp_path / "a.mkv").touch()
    (tmp_path / "b").mkdir()
    assert video_at(tmp_path, "a") == video_at(tmp_path, "a.mp4") == tmp_path / "a.mkv"
    assert video_at(tmp_path, "b.mp4") == tmp_path / "b"
    assert video_at(tmp_path, "gone.mp4") == tmp_path / "gone.mp4"


def test_questions_about_videos_are_asked_and_a_missing_one_is_named(tmp_path):
    folder = written("videomme", tmp_path)
    plans = plan_tasks(["videomme"], tmp_path, None, None)
    assert all(isinstance(q.parts[0], Video) for q in plans[0].questions)
    responder = always("A")
    [found] = evaluate(responder, WHO, plans, tmp_path / "run")
    assert (found.answered, round(found.figures["accuracy"])) == (3, 33)
    for frame in (folder / "data" / "v2").iterdir():
        frame.unlink()
    (folder / "data" / "v2").rmdir()
    with pytest.raises(DataError, match=r"question '002': .*v2"):
        evaluate(responder, WHO, plan_tasks(["videomme"], tmp_path, None, None), tmp_path / "other")


def test_the_two_means_of_the_interleave_benchmark_differ(folders):  # noqa: F811
    def say(question):
        return oracle(question) if question.group != "IEdit" else "no"

    official, lmms = (score(folders, "interleave", rules, say).figures for rules in ("official", "lmms"))
    assert official["image edit instruction"] == 50  # two data sets
    assert lmms["image edit instruction"] == pytest.approx(200 / 3)  # three samples
    assert official["mean of categories"] == pytest.approx((100 + 100 + 50) / 3)
    assert several_pictures.CATEGORY["VIST"] == "visual story telling"
    assert rouge_l_f1("the cup moved left", "the cup has moved left") == pytest.approx(8 / 9)
    assert rouge_l_f1("", "x") == 0


def test_a_video_of_temporalbench_is_right_if_all_its_questions_are(folders):  # noqa: F811
    found = score(folders, "temporalbench", None, lambda q: "B" if q.id.endswith("-0") else oracle(q))
    assert found.figures["multiple binary"] == 50 and found.figures["binary"] == 75


def test_hallusionbench_counts_answers_questions_and_figures(folders):  # noqa: F811
    found = score(folders, "hallusionbench", None, lambda q: "no")  # wrong where the answer is yes
    assert found.figures == {"aAcc": 50, "qAcc": 50, "fAcc": 0}


def test_amber_is_about_no(folders):  # noqa: F811
    found = score(folders, "amber", "official", lambda q: "No")
    assert found.figures["recall of no"] == 100 and found.figures["precision of no"] == 50
    assert score(folders, "amber", "official", lambda q: "no").unparsed == 4
    assert score(folders, "amber", "vlmevalkit", lambda q: "no").unparsed == 0


def test_amber_descriptions_by_hand(folders):  # noqa: F811
    """There are a sky and a person; kites are imagined; dogs claim nothing; houses are no words of it."""

    def say(question):
        return (
            "A man, women and a dog under clouds."
            if question.id == "1"
            else "Birds in the sky, a kite, a house."
        )

    found = score(folders, "amber-descriptions", None, say)
    assert found.figures["faithful"] == 50
    assert found.figures["CHAIR"] == pytest.approx(100 * 2 / 7)  # birds and a kite of seven words
    assert found.figures["Cover"] == pytest.approx(100 * 3 / 4)
    assert (found.figures["Hal"], found.figures["Cog"]) == (50, 50)


def test_things_in_captions():
    names = {
        "person": "person",
        "woman": "person",
        "dog": "dog",
        "traffic light": "traffic light",
        "bus": "bus",
    }
    said = "Two women and dogs wait at traffic lights; a Bus, buses. Lighting."
    assert hallucination.things(said, names) == ["person", "dog", "traffic light", "bus", "bus"]


def test_chair_by_hand(folders):  # noqa: F811
    """Pictures 0 and 2 have a person, 1 a dog; a car and a traffic light are in all captions of people."""
    found = score(folders, "chair", None, lambda q: "a man, a car" if q.id != "1" else "a woman with a puppy")
    assert found.figures["faithful"] == pytest.approx(200 / 3)
    assert found.figures["CHAIRs"] == pytest.approx(100 / 3)
    assert found.figures["CHAIRi"] == pytest.approx(100 / 6) and found.figures["recall"] == pytest.approx(
        500 / 9
    )


def test_medical_questions_are_scored_as_they_are_named(folders):  # noqa: F811
    found = score(folders, "vqa-rad", None, lambda q: "Yes, the left one, by MRI")
    assert found.figures == {"closed accuracy": 100, "open recall": 50}
    assert medical.kind_of({}, "no") == "closed" and medical.kind_of({"answer_type": "OPEN "}, "no") == "open"


def test_mathvista_reads_texts_letters_and_numbers(folders):  # noqa: F811
    questions = BENCHMARKS["mathvista"].questions(folders["mathvista"])
    choice, whole, fraction = questions
    points = [
        reasoning.mathvista_point(said, choice) for said in ("Cow", "(C)", "It is C.", "A", "so many words")
    ]
    assert points == [1, 1, 1, 0, None]
    assert (
        reasoning.mathvista_point("so 3 + 9 = 12.", whole) == 1
        and reasoning.mathvista_point("no", whole) is None
    )
    assert reasoning.mathvista_point("1.52", fraction) == 1


def test_mathverse_compares_formulas(folders):  # noqa: F811
    found = score(folders, "mathverse", None, lambda q: {"0": "B", "1": "24/2", "2": "x"}[q.id])
    assert found.figures["accuracy"] == pytest.approx(200 / 3)


def test_ocrbench_looks_for_what_is_written():
    assert contains("It says STOP now", ["stop"]) == contains("x^2 + 1", ["x ^ 2"], formula=True) == 1
    assert contains("ＡＢＣ", ["abc"]) == 0 and contains_folded("ＡＢＣ", ["abc"]) == 1


SAID = "A. Red"
HANDED_IN = {
    "vqav2-test": [{"question_id": 0, "answer": "red"}, {"question_id": 1, "answer": "red"}],
    "vizwiz-test": [{"image": "0.jpg", "answer": "red"}, {"image": "1.jpg", "answer": "red"}],
    "docvqa-test": [{"questionId": 0, "answer": SAID}, {"questionId": 1, "answer": SAID}],
    "infovqa-test": [{"questionId": 0, "answer": SAID}, {"questionId": 1, "answer": SAID}],
    "mmmu-test": {"test_Art_0": "A", "test_Art_1": SAID},
}


def test_test_sets_are_handed_in(run, tmp_path):
    tasks = [*HANDED_IN, "mmbench-test", "egoschema-full"]
    for task in tasks:
        written(task, tmp_path)
    plans = plan_tasks(tasks, tmp_path, None, None)
    assert evaluate(always(SAID), WHO, plans, tmp_path / "run") == []
    for task, rows in HANDED_IN.items():
        assert json.loads((tmp_path / "run" / task / "submission.json").read_text()) == rows
    lines = (tmp_path / "run" / "egoschema-full" / "submission.csv").read_text().splitlines()
    assert lines == ["q_uid,answer", *(f"u{n},0" for n in range(4))]
    with zipfile.ZipFile(
        io.BytesIO((tmp_path / "run" / "mmbench-test" / "submission.xlsx").read_bytes())
    ) as file:
        sheet = file.read("xl/worksheets/sheet1.xml").decode()
    assert "prediction" in sheet and sheet.count(SAID) == 2 and "image" not in sheet
    code, out, err = run("eval", "rescore", tmp_path / "run")
    assert (code, err) == (0, "") and "submission.xlsx: to hand in at mmbench" in out


def test_easy_vqa_needs_no_files_and_has_its_controls(run, tmp_path):
    plans = plan_tasks(["easy-vqa", "easy-vqa.shuffled", "easy-vqa.blind"], None, 40, None)
    assert len(plans[0].everything) == 9673 and len(plans[0].questions) == 40
    own, shuffled, blind = evaluate(always("yes"), WHO, plans, tmp_path / "run")
    assert own.figures == shuffled.figures == blind.figures and own.figures["yes_no"] > 20
    row = BENCHMARKS["easy-vqa"].rules["ours"]
    assert row.judge(plans[0].questions[:1], [plans[0].questions[0].reference.upper() + "."]) == [1.0]
    assert row.judge(plans[0].questions[:1], [" "]) == [None]
    code, _, err = run("eval", "gqa", "--model", "x")
    assert code == 2 and "give --data" in err
