"""`data check` finds every flaw that was planted, and nothing in data that is fine."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from llavakit.core.errors import DataError
from llavakit.data.check import BAD, FLAWS, SHOWN, Report, bars_of, check_mixture, draw_lengths, report_table
from llavakit.data.encode import Encoder
from llavakit.data.loader import Loader, Position
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.settings import DataConfig
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


def test_grey_of_more_bits_than_it_uses_is_noted_and_no_flaw(tmp_path):
    for number, most in enumerate((4095, 1000, 65535)):
        pixels = np.linspace(0, most, 96).reshape(8, 12).astype(np.uint16)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [tiny.record(number, f"{number}.png", [("What?", "red")]) for number in range(3)]
    (tmp_path / "scans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(tmp_path / "scans.jsonl", tmp_path / "out", encoder=ENCODER)
    assert (report.num_bad, sorted(report.tallies[0].dark)) == (0, [(10, 16), (12, 16)])
    shown = Console(width=80, file=io.StringIO())
    shown.print(report_table(report))
    said = " ".join(shown.file.getvalue().split())
    assert "2 pictures look dark" in said and "they use 12 of 16; model.image_depth=12 shows them" in said
    known = Encoder(ENCODER.tokenizer, ENCODER.template, ENCODER.image.model_copy(update={"depth": 12}))
    assert check(tmp_path / "scans.jsonl", tmp_path / "out", encoder=known).tallies[0].dark == []


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
    assert "tokens" not in show(report)


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


@pytest.mark.parametrize("most", [1, 59, 60, 61, 300, 4096])
def test_every_bar_counts_as_many_whole_tokens(most):
    width, edges = bars_of(most)
    found, _ = np.histogram(np.arange(len(edges) * width), bins=edges)  # every length once
    assert len(found) <= 60 and set(found) == {width}
    assert edges[0] < 0 and most < edges[-1]


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


def hostile(folder: Path) -> Path:
    """Two good records, and between them each kind of record that libraries stumble over."""
    tiny.picture(folder / "good.png")
    good = json.dumps(tiny.record(0, "good.png", [("What?", "red")]))
    show = '"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]}'
    lines = [
        f'{{"image": "{"iVBORw0KGgo" * 2000}", {show}',
        f'{{"image": "\\ud800.png", {show}',
        f'{{"image": "\\udc80.png", {show}',
        f'{{"image": "a\\u0000.png", {show}',
        f'{{"image": "{"sub/" * 2000}x.png", {show}',
        f'{{"id": {"9" * 5000}, {show}',
        f'{{"id": "\\ud800", {show}',
        "[" * 100_000,
        f'{{"image": ".", {show}',
    ]
    path = folder / "hostile.jsonl"
    path.write_text("\n".join([good, *lines, good.replace('"0"', '"last"')]))
    return path


@pytest.mark.parametrize("encoder", [None, ENCODER])
def test_what_libraries_stumble_over_is_a_flaw_of_its_record(encoder, tmp_path):
    report = check(hostile(tmp_path), tmp_path / "out", encoder=encoder)
    assert (report.tallies[0].records, report.num_bad) == (11, 9)
    flaws = found(tmp_path / "out")
    assert [int(name.rpartition(":")[2]) for name, _, _ in flaws] == list(range(2, 11))
    assert all(len(reason) < 600 and len(reason.splitlines()) == 1 for _, _, reason in flaws)
    for _, flaw in report.first:
        flaw.reason.encode()  # as a terminal does


def test_training_passes_over_what_libraries_stumble_over(tmp_path):
    settings = DataConfig(files=(hostile(tmp_path),), tokens=200, on_bad="skip", shuffle=False)
    loader = Loader(settings, ENCODER, seed=0)
    batch, _ = next(loader.batches(Position()))
    assert batch is not None and len(batch.segments) == 2
    assert len(loader.bad) == 9
    for message in loader.bad:
        message.encode()


def test_the_report_says_which_dialects_were_read(tmp_path):
    talk = tiny.record(0, None, [("q", "a")])
    rows = [talk, talk | {"id": "1"}, {"prompt": "q", "completion": "a"}, {"id": 3}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    report = check(tmp_path / "a.json", tmp_path / "out")
    assert dict(report.tallies[0].dialects) == {"llava": 2, "trl": 1, "unknown": 1}
    report.tallies[0].name = "a"
    said = show(report)
    assert "3 text, 1 unknown; read as 2 llava, 1 trl, 1 unknown" in " ".join(said.split())
    assert found(tmp_path / "out")[0][2].endswith("its fields are 'id'")


def test_the_report_fits_a_terminal_of_80_columns(flawed, tmp_path):
    report = check(flawed, tmp_path / "out", encoder=ENCODER, tokens=150)
    report.tallies[0].name = "a folder/" * 12 + "x.json"
    lines = show(report).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 16
    for tally in report.tallies:
        tally.name = ""
    said = " ".join(show(report).split())
    assert "11 bad: 2 record, 1 placeholders, 1 answer, 1 unread, 2 missing, 3 corrupt, 1 long, 1 dup" in said
    assert " tokens: mean " in said


def test_roles_out_of_order_are_found_without_an_encoder(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": turns}]))
    check(tmp_path / "a.json", tmp_path / "out")
    assert found(tmp_path / "out")[0][1:] == (
        "record",
        "roles must be user, assistant, user, ... (after an optional system); found ['user', 'user']",
    )


def show(report: Report) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(report_table(report))
    return console.file.getvalue()
