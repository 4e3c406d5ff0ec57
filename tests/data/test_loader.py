"""The loader: an order that is a function of the seed, exact resumption, and what happens to bad records."""

import json
import threading
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from llavakit.core.errors import ConfigError, DataError
from llavakit.core.types import IMAGE_ID, Batch
from llavakit.data.encode import Encoder
from llavakit.data.loader import Loader, Position, modality
from llavakit.data.settings import DataConfig
from llavakit.vision.frames import VideoConfig
from tests import tiny

ENCODER = tiny.encoder()


def loader(path: Path, *, seed: int = 0, encoder: Encoder = ENCODER, **settings) -> Loader:
    return Loader(DataConfig(files=(path,), **{"tokens": 120, "window": 3, **settings}), encoder, seed=seed)


def text_file(folder: Path, count: int) -> Path:
    """Records whose answers are their numbers, so that every one can be recognised in a batch."""
    rows = [tiny.record(n, None, [("number?", "no " * (n % 5) + f"#{n}#")]) for n in range(count)]
    path = folder / "numbers.json"
    path.write_text(json.dumps(rows))
    return path


def numbers(batch: Batch) -> list[str]:
    """The numbers in a batch of `text_file`, the answers' last tokens included (they are labels only)."""
    text = ENCODER.tokenizer.hf.decode(batch.labels_L)
    return text.split("#")[1::2]


def epoch(data: Loader, number: int = 0) -> list[tuple[Batch, Position]]:
    """All batches of one epoch: those read before the position says otherwise."""
    out = []
    for batch, position in data.batches(Position(number)):
        if position.epoch != number:
            break
        out.append((batch, position))
    return out


def same(first: Batch | None, second: Batch | None) -> bool:
    if first is None or second is None:  # a row whose samples are all bad
        return first is second
    pixels = len(first.pixels) == len(second.pixels) and all(map(torch.equal, first.pixels, second.pixels))
    return pixels and first.segments == second.segments and torch.equal(first.ids_T, second.ids_T)


def damage(folder: Path, number: int) -> Path:
    """Cut the picture of a record of `data_file` so that its header is fine and its pixels are not."""
    path = folder / f"{number}.png"
    path.write_bytes(path.read_bytes()[:400])
    return path


def test_the_same_seed_gives_the_same_batches(tmp_path):
    path = tiny.data_file(tmp_path)
    first, second = (list(islice(loader(path).batches(Position()), 12)) for _ in range(2))
    assert all(same(a, b) and p == q for (a, p), (b, q) in zip(first, second, strict=True))


def test_another_seed_and_another_epoch_give_another_order(tmp_path):
    path = text_file(tmp_path, 20)
    orders = [
        [number for batch, _ in epoch(loader(path, seed=seed), at) for number in numbers(batch)]
        for seed, at in ((0, 0), (1, 0), (0, 1))
    ]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("window", "tokens"), [(1, 40), (3, 60), (7, 120), (256, 4096)])
def test_every_record_is_read_exactly_once_per_epoch(shuffle, window, tokens, tmp_path):
    path = text_file(tmp_path, 20)
    data = loader(path, window=window, tokens=tokens, shuffle=shuffle)
    for at in (0, 1):
        batches = [batch for batch, _ in epoch(data, at)]
        read = [number for batch in batches for number in numbers(batch)]
        assert sorted(read, key=int) == [str(number) for number in range(20)]
        assert all(batch.num_tokens <= tokens for batch in batches)
    assert data.num_rows() == len(epoch(data))


def test_without_shuffling_windows_are_read_in_order(tmp_path):
    data = loader(text_file(tmp_path, 6), window=1, shuffle=False)
    assert [number for batch, _ in epoch(data) for number in numbers(batch)] == list("012345")


def test_the_end_of_an_epoch_is_followed_by_the_next(tmp_path):
    data = loader(text_file(tmp_path, 4), window=2)
    positions = [position for _, position in islice(data.batches(Position()), 2 * data.num_rows())]
    assert {position.epoch for position in positions} >= {0, 1}
    assert positions == sorted(positions, key=lambda p: (p.epoch, p.window, p.row))


def test_resuming_from_any_position_gives_exactly_the_rest(tmp_path):
    path = tiny.data_file(tmp_path)
    stream = list(islice(loader(path).batches(Position()), 12))
    assert stream[-1][1].epoch > 0
    for done, (_, position) in enumerate(stream[:-1], 1):
        rest = list(islice(loader(path).batches(position), len(stream) - done))
        assert all(same(a, b) and p == q for (a, p), (b, q) in zip(stream[done:], rest, strict=True))


@pytest.mark.parametrize("settings", [{}, {"window": 2, "tokens": 60}, {"modality": "homogeneous"}])
def test_the_number_of_workers_changes_nothing(settings, flawed):
    """Batches, positions and the list of bad records, over two epochs and from the middle of one."""
    streams = []
    for workers in (0, 1, 4):
        data = loader(flawed, on_bad="skip", workers=workers, **settings)
        stream = list(islice(data.batches(Position()), 2 * data.num_rows() + 1))
        streams.append((stream, list(data.bad)))
        resumed = list(
            islice(loader(flawed, on_bad="skip", workers=workers, **settings).batches(stream[1][1]), 5)
        )
        assert all(same(a, b) and p == q for (a, p), (b, q) in zip(resumed, stream[2:7], strict=False))
    (first, bad), *others = streams
    for stream, also_bad in others:
        assert also_bad == bad and len(bad) == 3
        assert all(same(a, b) and p == q for (a, p), (b, q) in zip(first, stream, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_error_comes_out_after_the_batches_before_it(workers, tmp_path):
    """However far reading has run ahead, a run stops where one reader would have stopped."""
    path = text_file(tmp_path, 9)
    rows = json.loads(path.read_text())
    rows[6]["conversations"] = []
    path.write_text(json.dumps(rows))
    data = loader(path, shuffle=False, window=2, tokens=4096, workers=workers)
    read = []
    with pytest.raises(DataError, match="must be a non-empty list"):
        for batch, _ in data.batches(Position()):
            read += numbers(batch)
    assert sorted(read) == list("012345")


def test_reading_ahead_is_bounded_and_ends_when_nobody_reads(tmp_path):
    path = text_file(tmp_path, 200)
    data = loader(path, window=2, workers=3)
    read: list[int] = []
    whole = data._encode
    data._encode = lambda record, index: read.append(record.line) or whole(record, index)
    batches = data.batches(Position())
    next(batches)
    batches.close()
    assert len(read) <= 2 * (2 + 6 + data._depth)  # a window holds two records, six rows wait
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_homogeneous_rows_hold_one_modality_and_lose_nothing(tmp_path):
    path = tiny.data_file(tmp_path, 16)
    rows = json.loads(path.read_text())
    (tmp_path / "clip").mkdir()
    tiny.picture(tmp_path / "clip" / "0.png")
    for row in rows[:3]:
        del row["image"]
        row["video"] = "clip"
    path.write_text(json.dumps(rows))
    frames = Encoder(ENCODER.tokenizer, ENCODER.template, tiny.IMAGE, VideoConfig(max_frames=1, stride=1))
    for choice, kinds in (("mixed", 2), ("homogeneous", 1)):
        data = loader(path, window=16, modality=choice, encoder=frames, tokens=200)
        found = []
        for number in range(data.num_windows):
            for row in data._pack((0, number)).rows:
                found.append([modality(each.pair[1]) for each in row])
        assert max(len(set(row)) for row in found) >= kinds
        if kinds == 1:
            assert max(len(set(row)) for row in found) == 1
        assert Counter(kind for row in found for kind in row) == {"text": 4, "video": 3, "image": 9}
        assert data.num_rows() == len(epoch(data)) == len(found)


def test_a_mixture_is_read_by_its_weights(tmp_path):
    path = text_file(tmp_path, 10)
    (tmp_path / "mix.yaml").write_text("sources: [{path: numbers.json, weight: 1.5}]")
    data = loader(tmp_path / "mix.yaml")
    counts = [Counter(number for batch, _ in epoch(data, at) for number in numbers(batch)) for at in (0, 1)]
    assert [sorted(count.values()) for count in counts] == [[1] * 5 + [2] * 5] * 2
    assert set((counts[0] + counts[1]).values()) == {3}
    assert path.exists() and data.num_rows() == len(epoch(data))


def test_batches_hold_the_pictures_of_their_samples(tmp_path):
    data = loader(tiny.data_file(tmp_path))
    count = sum(len(pixels) for batch, _ in epoch(data) for pixels in batch.pixels)
    assert count == 6  # of eight records, every fourth has none
    assert len(list(data.media())) == 6


def test_independent_turns_share_their_prompt(tmp_path):
    data = loader(tiny.data_file(tmp_path), turns="independent")
    assert any(segment.parent is not None for batch, _ in epoch(data) for segment in batch.segments)


def test_a_sample_longer_than_the_budget_names_both_numbers(tmp_path):
    path = text_file(tmp_path, 1)
    sample = loader(path).samples(loader(path).records[0])
    data = loader(path, tokens=sample.num_inputs - 1)
    with pytest.raises(
        DataError, match=f"{sample.num_inputs} tokens do not fit data.tokens={sample.num_inputs - 1}"
    ):
        list(islice(data.batches(Position()), 1))
    assert loader(path, tokens=sample.num_inputs).samples(data.records[0]) == sample


@pytest.fixture
def flawed(tmp_path) -> Path:
    """Eight records: one of unknown role, one whose picture is gone, one whose pixels are cut."""
    path = tiny.data_file(tmp_path)
    rows = json.loads(path.read_text())
    rows[1]["conversations"][0]["from"] = "robot"
    (tmp_path / "4.png").unlink()
    damage(tmp_path, 6)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    return path


def test_a_bad_record_stops_the_run_with_its_file_and_line(flawed):
    with pytest.raises(DataError, match=rf"{flawed}:\d: .*data\.on_bad=skip"):
        list(islice(loader(flawed, shuffle=False).batches(Position()), 8))


def test_cut_pixels_stop_the_run_with_file_and_line_and_picture(tmp_path):
    path = tiny.data_file(tmp_path)
    picture = damage(tmp_path, 0)
    with pytest.raises(DataError) as caught:
        list(islice(loader(path).batches(Position()), 8))
    assert str(caught.value).startswith(f"{path}:2: {picture}: broken image")


def test_bad_records_are_skipped_counted_and_listed_once(flawed):
    data = loader(flawed, on_bad="skip")
    for at in (0, 1):
        batches = [batch for batch, _ in epoch(data, at)]
        assert sum(len(pixels) for b in batches for pixels in b.pixels) == 3
    assert len(data.bad) == 3
    told = sorted(data.bad)
    assert told[0].startswith(f"{flawed}:3: conversations[0].from is 'robot'")
    assert told[1].startswith(f"{flawed}:6: image not found: ")
    assert told[2].startswith(f"{flawed}:8: ")
    assert "broken image" in told[2]
    assert all("fix the record" not in message for message in told)


def test_the_rest_of_a_row_with_a_cut_picture_is_kept(tmp_path):
    path = tiny.data_file(tmp_path)
    whole = epoch(loader(path, tokens=4096, window=8))
    damage(tmp_path, 0)
    (row,) = epoch(loader(path, tokens=4096, window=8, on_bad="skip"))
    assert len(row[0].segments) == len(whole[0][0].segments) - 1 == 7


@pytest.mark.parametrize("times", [1, 2])
def test_a_data_set_without_a_good_record_ends(times, tmp_path):
    """Also where its file is listed twice, so that its messages are fewer than its records."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"conversations": []}\nnonsense\n')
    data = Loader(DataConfig(files=(path,) * times, on_bad="skip"), ENCODER, seed=0)
    with pytest.raises(DataError, match=rf"all {2 * times} records are bad; the first: .*bad\.jsonl:"):
        next(data.batches(Position()))


def test_files_must_be_named_exist_and_hold_records(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.files is empty"):
        Loader(DataConfig(), ENCODER, seed=0)
    with pytest.raises(DataError, match="data file not found"):
        loader(tmp_path / "gone.json")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"no records in .*empty\.json"):
        loader(tmp_path / "empty.json")


def test_one_file_may_be_written_without_a_list():
    assert DataConfig(files="a.json").files == (Path("a.json"),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0},
        {"tokens": 0},
        {"on_bad": "ignore"},
        {"turns": "both"},
        {"workers": -1},
        {"modality": "image"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        DataConfig(**wrong)


def test_several_files_are_read_with_their_own_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    files = tuple(tiny.data_file(tmp_path / name, count) for name, count in (("one", 3), ("two", 2)))
    data = Loader(DataConfig(files=files), ENCODER, seed=0)
    assert [media.source.parent.name for media in data.media()] == ["one"] * 3 + ["two"] * 2


@pytest.mark.parametrize(("ranks", "step"), [(2, 2), (2, 3), (3, 2), (4, 8)])
def test_ranks_share_the_rows_of_every_step(tmp_path, ranks, step):
    """Each row is one rank's, whoever reads; a rank has at most one row more than another in a step."""
    path = tiny.data_file(tmp_path, 12)
    whole = list(islice(loader(path).batches(Position()), 2 * step))
    shares = [
        list(islice(loader(path).batches(Position(), rank=rank, ranks=ranks, step=step), 2 * step))
        for rank in range(ranks)
    ]
    for number, (batch, position) in enumerate(whole):
        mine = [share[number] for share in shares]
        assert {after for _, after in mine} == {position}
        assert [read is not None for read, _ in mine] == [
            rank == number % step % ranks for rank in range(ranks)
        ]
        [read] = [read for read, _ in mine if read is not None]
        assert torch.equal(read.ids_T, batch.ids_T)


def test_a_seeded_share_of_records_has_its_media_in_front(tmp_path):
    """Interleave's mixed placement: which records is drawn from the seed, not from who reads or when."""
    picture = tiny.picture(tmp_path / "a.png").name
    talk = [{"from": "human", "value": "first <image> second <image>"}, {"from": "gpt", "value": "yes"}]
    rows = [{"id": str(n), "image": [picture, picture], "conversations": talk} for n in range(60)]
    path = tmp_path / "data.json"
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")

    def first_slots(share: float, seed: int = 0) -> list[int]:
        data = Loader(DataConfig(files=(path,), media_front=share), tiny.encoder(), seed=seed)
        return [data.samples(record).ids.index(IMAGE_ID) for record in data.records]

    (in_place,), (front,) = set(first_slots(0.0)), set(first_slots(1.0))
    assert front < in_place

    def in_front(share: float, seed: int = 0) -> list[bool]:
        return [slot == front for slot in first_slots(share, seed)]

    drawn = in_front(0.5)
    assert 15 < sum(drawn) < 45
    assert drawn == in_front(0.5) != in_front(0.5, seed=1)
