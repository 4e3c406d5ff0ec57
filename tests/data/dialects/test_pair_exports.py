"""What other tools export: Label Studio's tasks, Argilla's records, KTO's single answers, and each as another."""

import json

import pytest

from llavakit.core.errors import DataError
from llavakit.data.convert import KTO, PAIRS_WRITTEN, convert_mixture
from llavakit.data.dialects.judged import settle
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.records import Record, read_records
from llavakit.text.conversation import Image, Video
from tests import tiny

ASKED, GOOD, BAD = "What color is it?", "It is red.", "It is blue."


def annotation(selected: str, **facts) -> dict:
    """As Label Studio 1.x writes an annotation of its template for human preferences."""
    said = {
        "id": "Dx_aB91ISN", "type": "pairwise", "value": {"selected": selected}, "origin": "manual",
        "to_name": "answer1,answer2", "from_name": "comparison",
    }  # fmt: skip
    return {
        "id": 17, "completed_by": 1, "result": [said], "was_cancelled": False, "ground_truth": False,
        "created_at": "2026-03-03T14:00:00.000000Z", "updated_at": "2026-03-03T14:00:00.000000Z",
        "draft_created_at": None, "lead_time": 6.1, "prediction": {}, "result_count": 1,
        "unique_id": "8b6c5d0e-6a1b-4c7e-9d57-2a3f8f1f9f60", "import_id": None, "last_action": None, "task": 9,
        "project": 3, "updated_by": 1, "parent_prediction": None, "parent_annotation": None,
        "last_created_by": None,
    } | facts  # fmt: skip


def task(*annotations: dict, **data) -> dict:
    return {
        "id": 9, "annotations": list(annotations), "file_upload": "e875f554-pairs.json", "drafts": [],
        "predictions": [],
        "data": {"prompt": ASKED, "image": "x.png", "answer1": BAD, "answer2": GOOD} | data, "meta": {},
        "created_at": "2026-03-01T10:00:00.000000Z", "updated_at": "2026-03-03T14:00:00.000000Z", "inner_id": 1,
        "total_annotations": len(annotations), "cancelled_annotations": 0, "total_predictions": 0,
        "comment_count": 0, "unresolved_comment_count": 0, "last_comment_updated_at": None, "project": 3,
        "updated_by": 1, "comment_authors": [],
    }  # fmt: skip


def ranked(*orders: list, **fields) -> dict:
    """As Argilla 2's `records.to_json` writes a record with a ranking question."""
    return {
        "id": "7c1f", "metadata": {"source": "coco"}, "suggestions": {},
        "fields": {"image": "x.png", "prompt": ASKED, "response_1": BAD, "response_2": GOOD} | fields,
        "responses": {
            "preference": [{"value": order, "user_id": f"user-{number}"} for number, order in enumerate(orders)],
            "comment": [{"value": "fine", "user_id": "user-0"}],
        },
        "vectors": {}, "_server_id": "5fbb1f2a-7b1e-4a5b-8c7b-6a9a6d3a0f11",
    }  # fmt: skip


FLAT = {  # as `to_datasets` and the hub have it
    "id": "7c1f", "status": "completed", "_server_id": "5fbb", "image": "x.png", "prompt": ASKED,
    "response_1": BAD, "response_2": GOOD,
    "preference.responses": [["response_2", "response_1"], ["response_1", "response_2"]],
    "preference.responses.users": ["u1", "u2"], "preference.responses.status": ["submitted", "discarded"],
    "preference.suggestion": None, "preference.suggestion.score": None, "preference.suggestion.agent": None,
}  # fmt: skip
EXPORTS = {
    "label-studio": task(annotation("right")),
    "label-studio, three": task(annotation("right"), annotation("left"), annotation("right")),
    "label-studio, skipped": task(annotation("right"), annotation("left", was_cancelled=True)),
    "label-studio, ground truth": task(
        annotation("left"), annotation("left"), annotation("right", ground_truth=True)
    ),
    "label-studio, upload": task(annotation("right"), image="/data/upload/x.png"),
    "label-studio, local": task(annotation("right"), image="/data/local-files/?d=x%2Epng"),
    "argilla": ranked(["response_2", "response_1"]),
    "argilla, ranks": ranked([{"value": "response_1", "rank": 2}, {"value": "response_2", "rank": 1}]),
    "argilla, label": ranked("response_2"),
    "argilla, chat": ranked(["response_2", "response_1"], prompt=[{"role": "user", "content": ASKED}]),
    "argilla, flat": FLAT,
    "collected": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}},
                                                  {"type": "text", "text": ASKED}]}],
        "answers": [BAD, GOOD],
        "votes": [{"annotator": "a", "verdict": 2}, {"annotator": "b", "verdict": "skip"}],
    },
}  # fmt: skip


def record_of(tmp_path, raw) -> Record:
    upload = tmp_path / "upload"
    upload.mkdir(exist_ok=True)
    tiny.picture(tmp_path / "x.png")
    tiny.picture(upload / "x.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(raw) + "\n")
    return read_records(tmp_path / "pairs.jsonl")[0]


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_gives_the_pair(tmp_path, name):
    chosen, rejected = record_of(tmp_path, EXPORTS[name]).pair()
    for talk, answer in ((chosen, GOOD), (rejected, BAD)):
        question, said = talk.messages
        assert (question.text.strip(), said.text, said.weight) == (ASKED, answer, 1)
        [picture] = question.media
        assert isinstance(picture, Image) and picture.source.name == "x.png" and picture.source.exists()


@pytest.mark.parametrize("to", [*PAIRS_WRITTEN, KTO])
@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_can_be_written_in_every_other(tmp_path, name, to):
    before = record_of(tmp_path, EXPORTS[name]).pair()
    mixture = Mixture(list_sources([tmp_path / "pairs.jsonl"]), seed=0)
    found = convert_mixture(mixture, to, tmp_path / "new.jsonl", tmp_path / "bad.jsonl")
    assert (found.written, found.flaws.total()) == (1, 0), found.first
    records = list(read_records(tmp_path / "new.jsonl"))
    if to == KTO:
        judged = [record.judged()[0] for record in records]
        assert sorted((talk.messages[-1].text, wanted) for talk, wanted in judged) == [
            (BAD, False),
            (GOOD, True),
        ]
        assert all(talk.messages[:-1] == before[0].messages[:-1] for talk, _ in judged)
    else:
        [record] = records
        for mine, theirs in zip(record.pair(), before, strict=True):
            assert [(m.role, m.text.strip(), m.media) for m in mine.messages] == [
                (m.role, m.text.strip(), m.media) for m in theirs.messages
            ]


def test_what_lies_beside_a_pair_goes_along(tmp_path):
    rest = record_of(tmp_path, ranked(["response_2", "response_1"])).alternatives().rest
    assert rest == {"id": "7c1f", "source": "coco"}
    rest = record_of(tmp_path, task(annotation("left"), domain="kitchen")).alternatives().rest
    assert rest == {"id": 9, "domain": "kitchen"}


def test_several_pictures_and_videos_keep_their_order(tmp_path):
    shown = {"image": None, "image_2": "x.png", "image_10": "upload/x.png"}
    pictures = record_of(tmp_path, ranked("response_1", **shown)).pair()[0].media
    assert [medium.source for medium in pictures] == [tmp_path / "x.png", tmp_path / "upload/x.png"]
    media = {"image": None, "video": ["/data/upload/a.mp4", "b.mp4"], "prompt": "<video> or <video>?"}
    talk = record_of(tmp_path, task(annotation("left"), **media)).pair()[0]
    assert talk.media == (Video(tmp_path / "upload/a.mp4"), Video(tmp_path / "b.mp4"))


CHOICE = {"type": "choices", "from_name": "tie", "to_name": "prompt", "value": {"choices": ["Both bad"]}}


@pytest.mark.parametrize(
    ("raw", "kind", "what"),
    [
        (task(), "record", "does not say which"),
        (task(annotation("left", was_cancelled=True)), "undecided", "was skipped"),
        (task(annotation("left"), annotation("right")), "undecided", "do not agree"),
        (task(annotation("", result=[CHOICE])), "undecided", "both are bad"),
        (task(annotation("up")), "record", "selects 'up'"),
        (task(annotation("left", result=None)), "record", "a list 'result'"),
        (task(annotation("left"), answer2=None), "record", "two fields named alike"),
        (task(annotation("left"), prompt=None), "record", "the question is in none"),
        (ranked(), "record", "does not say which"),
        (ranked("tie"), "undecided", "a tie"),
        (ranked([{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 1}]), "undecided", "tie"),
        (ranked("response_1", answer_a="x", answer_b="y"), "record", "two fields named alike"),
        (EXPORTS["collected"] | {"votes": [{"verdict": 3}]}, "record", "it must be 1, 2, tie"),
        (EXPORTS["collected"] | {"answers": [GOOD]}, "record", "must be two texts"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_named(tmp_path, raw, kind, what):
    with pytest.raises(DataError, match=rf"pairs.jsonl:1: .*{what}") as found:
        record_of(tmp_path, raw).pair()
    assert found.value.kind == kind


def test_two_questions_about_the_answers_are_one_too_many(tmp_path):
    raw = ranked("response_1")
    raw["responses"]["length"] = [{"value": "response_2", "user_id": "u"}]
    with pytest.raises(DataError, match="2 questions compare"):
        record_of(tmp_path, raw).pair()


@pytest.mark.parametrize(
    ("verdicts", "most"),
    [([], None), ([1], 1), ([1, 2], None), ([1, 2, 2], 2), (["tie", 1], None), (["tie", "tie", 1], "tie")],
)  # fmt: skip
def test_most_annotators_decide(verdicts, most):
    assert settle(verdicts) == most


SINGLE = {
    "trl": {"prompt": ASKED, "completion": GOOD, "label": True, "images": ["x.png"]},
    "trl, messages": {
        "prompt": [{"role": "user", "content": ASKED}], "images": ["x.png"],
        "completion": [{"role": "assistant", "content": GOOD}], "label": True,
    },
    "llama-factory": {
        "messages": [{"role": "user", "content": f"<image>{ASKED}"}, {"role": "assistant", "content": GOOD}],
        "images": ["x.png"], "kto_tag": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_single_answers_are_read_and_written(tmp_path, name):
    [(talk, wanted)] = record_of(tmp_path, SINGLE[name] | {"id": "7"}).judged()
    assert wanted is True and [m.text for m in talk.messages] == [ASKED, GOOD]
    assert talk.media == (Image(tmp_path / "x.png"),)
    mixture = Mixture(list_sources([tmp_path / "pairs.jsonl"]), seed=0)
    found = convert_mixture(mixture, KTO, tmp_path / "new.jsonl", tmp_path / "bad.jsonl")
    assert (found.written, dict(found.dialects)) == (1, {KTO: 1})
    [record] = read_records(tmp_path / "new.jsonl")
    assert record.judged() == [(talk, True)] and record.raw["id"] == "7"


def test_both_answers_of_a_bad_pair_are_unwanted_and_a_tie_is_told(tmp_path, run):
    collected = EXPORTS["collected"]
    bad, tie = ({**collected, "votes": [{"verdict": verdict}]} for verdict in ("both_bad", "tie"))
    tiny.picture(tmp_path / "x.png")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (bad, tie)))
    out = tmp_path / "new.jsonl"
    code, said, _ = run("data", "convert", tmp_path / "pairs.jsonl", "--to", "kto", "--out", out)
    assert code == 0 and "1 of 2 records written as kto (read as 1 collected)" in said
    assert "1 were not (1 undecided)" in said
    assert [record.judged()[0][1] for record in read_records(out)] == [False, False]


def test_training_on_single_answers_as_a_conversation_is_refused(tmp_path):
    with pytest.raises(DataError, match="not read: label"):
        record_of(tmp_path, SINGLE["trl"]).conversation()
