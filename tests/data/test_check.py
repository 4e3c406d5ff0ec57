"""`data check` finds every flaw that was planted, and nothing in data that is fine."""

import json
from pathlib import Path

import PIL.Image
import pytest

from llavakit.core.errors import DataError
from llavakit.data.check import BAD, FLAWS, SHOWN, Report, check_mixture, draw_lengths, report_table
from llavakit.data.mixture import Mixture, list_sources
from tests import tiny

ENCODER = tiny.encoder()


def check(path: Path, out: Path, **settings) -> Report:
    return check_mixture(Mixture(list_sources([path]), seed=0), out, **settings)


def found(out: Path) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in (out / BAD).read_text().splitlines()]
    return [(row["record"], row["kind"], row["reason"]) for row in rows]


@pytest.fixture
def flawed(tmp_path) -> Path:
    """A mixture of two files; the first has one record of each flaw in lines 2 to 12."""
    ask = [("What?", "red")]
    (tmp_path / "cut.png").write_bytes(tiny.picture(tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("not a picture")
    rows = [
        tiny.record(0, "good.png", ask),
        tiny.record(1, "gone.png", ask),
        tiny.record(2, "cut.png", ask),
        tiny.record(3, "text.png", ask),
        tiny.record(4, "good.png", ask) | {"image": ["good.png"] * 2},
        tiny.record(5, None, [("What?", " ")]),
        tiny.record(0, None, ask),
        {"id": "7", "conversations": [{"from": "robot", "value": "x"}]},
        tiny.record(8, None, [("What?", "red " * 200)]),
        tiny.record(9, ["gone.png", "cut.png"], ask),
        tiny.record(10, None, ask) | {"videos": ["x.mp4"], "loss": 0},
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines, "{nonsense"]))
    (tmp_path / "good.json").write_text(
        json.dumps([tiny.record(0, None, ask), tiny.record(1, "good.png", ask)])
    )
    (tmp_path / "mix.yaml").write_text("sources: [{path: bad.jsonl, name: first}, {path: good.json}]")
    return tmp_path / "mix.yaml"


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_every_planted_flaw_is_found_and_nothing_else(flawed, workers, tmp_path):
    out = tmp_path / "out"
    report = check(flawed, out, encoder=ENCODER, tokens=150, workers=workers)
    bad = tmp_path / "bad.jsonl"
    expected = [
        (2, "missing", f"not found: {tmp_path / 'gone.png'}"),
        (3, "corrupt", f"{tmp_path / 'cut.png'}: broken image"),
        (4, "corrupt", f"{tmp_path / 'text.png'}: not an image"),
        (5, "placeholders", "1 <image> placeholder(s) in the text but 2 image(s) listed"),
        (6, "answer", "conversations[1].value is an empty answer"),
        (7, "duplicate", f'id "0" is also at {bad}:1'),
        (8, "record", "conversations[0].from is 'robot'"),
        (9, "long", "tokens do not fit a row of 150"),
        (10, "missing", f"not found: {tmp_path / 'gone.png'}"),
        (10, "corrupt", f"{tmp_path / 'cut.png'}: broken image"),
        (11, "unread", "not read: loss (dialect sharegpt)"),
        (12, "record", "not JSON: "),
    ]
    flaws = found(out)
    assert [(name, kind) for name, kind, _ in flaws] == [
        (f"{bad}:{line}", kind) for line, kind, _ in expected
    ]
    assert all(text in reason for (_, _, reason), (_, _, text) in zip(flaws, expected, strict=True))
    assert {kind for _, kind, _ in flaws} == set(FLAWS)
    first, second = report.tallies
    assert (first.name, first.records, first.bad, second.records, second.bad) == ("first", 12, 11, 2, 0)
    assert (report.num_bad, len(report.first)) == (11, SHOWN)
    assert dict(second.kinds) == {"text": 1, "image": 1}
    assert first.flaws["missing"] == first.flaws["corrupt"] - 1 == 2


def test_a_kind_that_is_ignored_makes_no_record_bad(flawed, tmp_path):
    report = check(flawed, tmp_path / "out", encoder=ENCODER, tokens=150, ignore=("duplicate", "long"))
    assert report.num_bad == 9
    assert {"duplicate", "long"}.isdisjoint(kind for _, kind, _ in found(tmp_path / "out"))


def test_without_an_encoder_lengths_are_not_known_and_not_judged(flawed, tmp_path):
    report = check(flawed, tmp_path / "out", tokens=1)
    assert report.num_bad == 10
    assert not any(tally.lengths for tally in report.tallies)
    assert "tokens" not in [column.header for column in report_table(report).columns]


def test_lengths_are_those_of_training_and_are_drawn(tmp_path):
    path = tiny.data_file(tmp_path)
    mixture = Mixture(list_sources([path]), seed=0)
    report = check_mixture(mixture, tmp_path / "out", encoder=ENCODER)
    lengths = [ENCODER.encode(record.conversation()).num_inputs for record in mixture]
    assert (list(report.tallies[0].lengths), report.num_bad) == (lengths, 0)
    draw_lengths(report, max(lengths), tmp_path / "lengths.png")
    with PIL.Image.open(tmp_path / "lengths.png") as picture:
        assert picture.size == (960, 540)
    exact = check_mixture(mixture, tmp_path / "out", encoder=ENCODER, tokens=max(lengths))
    short = check_mixture(mixture, tmp_path / "out", encoder=ENCODER, tokens=max(lengths) - 1)
    assert (exact.num_bad, short.num_bad) == (0, lengths.count(max(lengths)))


def test_films_are_decoded_and_missing_ones_are_told(tmp_path):
    (tmp_path / "clip").mkdir()
    tiny.picture(tmp_path / "clip" / "0.png")
    (tmp_path / "broken.mp4").write_bytes(b"no film at all")
    rows = []
    for number, name in enumerate(["clip", "broken.mp4", "gone.mp4"]):
        talk = tiny.record(number, "x", [("What?", "red")])
        del talk["image"]
        rows.append(talk | {"video": name})
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "]")
    report = check(path, tmp_path / "out")
    assert [(name, kind) for name, kind, _ in found(tmp_path / "out")] == [
        (f"{path}:3", "corrupt"),
        (f"{path}:4", "missing"),
    ]
    assert report.tallies[0].kinds == {"video": 3}


def test_ids_are_compared_within_a_source_and_by_their_type(tmp_path):
    rows = [tiny.record(0, None, [("q", "a")]) | {"id": value} for value in ("1", 1, None, None, "1")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = check(tmp_path / "a.json", tmp_path / "out")
    assert [reason for _, _, reason in found(tmp_path / "out")] == [
        f'id "1" is also at {tmp_path / "a.json"}:1'
    ]
    assert report.num_bad == 1


def test_data_that_cannot_be_split_into_records_is_an_error_and_not_a_report(tmp_path):
    (tmp_path / "a.json").write_text("[{}")
    with pytest.raises(DataError, match="not JSON"):
        check(tmp_path / "a.json", tmp_path / "out")
