"""Noted lengths: the same rows as without, only one's own encoded, made by all together, and never stale unseen."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llavakit.core.errors import CheckpointError, ConfigError, DataError
from llavakit.data import lengths
from llavakit.data.lengths import fill_lengths, lengths_key
from llavakit.data.loader import Loader, Position
from tests import tiny
from tests.data.test_loader import epoch, loader, numbers, same, text_file


def noted(folder, path, **settings):
    data = loader(path, **settings)
    data.note_lengths(folder / "lengths")
    return data


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of records that loaders encoded."""
    found = []

    def spy(self, record, index=None, *, real=Loader._encode):
        found.append(index)
        return real(self, record, index)

    monkeypatch.setattr(Loader, "_encode", spy)
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"workers": 0}, {"modality": "homogeneous"}, {"turns": "independent"}]
)
def test_rows_are_those_of_a_loader_without(tmp_path, settings):
    path = tiny.data_file(tmp_path, 11)
    plain, ours = loader(path, **settings), noted(tmp_path, path, **settings)
    for one, other in zip(epoch(plain), epoch(ours), strict=True):
        assert one[1] == other[1] and same(one[0], other[0])
    assert plain.num_rows() == ours.num_rows()


def test_a_rank_encodes_its_own_rows_alone(tmp_path, encoded):
    data = noted(tmp_path, text_file(tmp_path, 24), workers=0)
    assert sorted(encoded) == list(range(24))
    encoded.clear()
    assert data.num_rows() and encoded == []
    mine = []
    for rank in range(3):
        encoded.clear()
        for batch, position in data.batches(Position(), rank=rank, ranks=3, step=3):
            if position.epoch:
                break
            mine += numbers(batch) if batch is not None else []
        # What lies ahead in the next epoch is read too.
        assert len(encoded) < 24
    assert sorted(mine, key=int) == [str(n) for n in range(24)]


def test_bad_records_are_told_as_without(tmp_path):
    rows = [tiny.record(n, None, [("number?", f"#{n}#")]) for n in range(6)]
    rows[2] = {"id": 2}
    rows[4] = tiny.record(4, None, [("number?", "no " * 500)])
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(rows))
    plain, ours = loader(path, on_bad="skip"), noted(tmp_path, path, on_bad="skip")
    assert len(epoch(plain)) == len(epoch(ours))
    assert sorted(plain.bad) == sorted(ours.bad) and len(ours.bad) == 2
    with pytest.raises(DataError, match=r"bad\.json") as error:
        epoch(noted(tmp_path, path))
    assert error.value.line


def test_a_picture_that_was_missing_is_found_when_it_is_there(tmp_path, encoded):
    """A run stops at it, its owner puts it there, and starts again with the same folder of lengths."""
    path = tiny.data_file(tmp_path, 4)
    picture = tmp_path / "0.png"
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(DataError, match=picture.name):
        epoch(noted(tmp_path, path, workers=0))
    skips = noted(tmp_path, path, workers=0, on_bad="skip")
    encoded.clear()
    assert len(epoch(skips)) == len(epoch(skips)) and len(skips.bad) == 1
    assert encoded.count(0) == 1  # looked at again, but not in every epoch
    picture.write_bytes(kept)
    plain, ours = loader(path), noted(tmp_path, path, workers=0)
    for one, other in zip(epoch(plain), epoch(ours), strict=True):
        assert one[1] == other[1] and same(one[0], other[0])


def test_a_picture_that_was_changed_is_found_out(tmp_path):
    path = tiny.data_file(tmp_path, 4)
    noted(tmp_path, path, workers=0)
    again = loader(path, workers=0)
    again.note_lengths(tmp_path / "lengths")
    kept = again.lengths
    again.lengths = lengths.Lengths(kept.tokens_N - 1, kept.kinds_N)
    with pytest.raises(DataError, match=r"tokens, but \d+ when its length was noted: its media were changed"):
        epoch(again)


def test_a_changed_file_or_setting_begins_anew(tmp_path, encoded):
    path = text_file(tmp_path, 5)
    noted(tmp_path, path)
    encoded.clear()
    noted(tmp_path, path)
    assert encoded == []
    noted(tmp_path, path, tokens=110)
    assert len(encoded) == 5
    text_file(tmp_path, 6)
    noted(tmp_path, path)
    assert len(encoded) == 11
    assert len(list((tmp_path / "lengths").iterdir())) == 3


def square(at):
    if at % 7 == 3:
        raise DataError("bad", path="x.json", line=at)
    return at * at + 1, at % 3


def check(found, count):
    assert found.tokens_N.tolist() == [0 if at % 7 == 3 else at * at + 1 for at in range(count)]


@pytest.mark.parametrize("processes", [1, 3])
def test_stripes_are_joined_in_order(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(lengths, "STRIPE", 5)
    check(fill_lengths(tmp_path, "k", 23, square, processes=processes), 23)


def test_ranks_share_the_work_and_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "STRIPE", 4)
    monkeypatch.setattr(lengths, "PAUSE", 0.01)
    done, late = [set(), set()], threading.Event()

    def measure(rank, at):
        if rank == 1:
            late.wait(5)
        done[rank].add(at)
        return square(at)

    with ThreadPoolExecutor(2) as pool:
        ranks = [
            pool.submit(
                fill_lengths, tmp_path, "k", 30, lambda at, r=rank: measure(r, at), rank=rank, ranks=2
            )
            for rank in range(2)
        ]
        with pytest.raises(TimeoutError):
            ranks[0].result(0.3)  # its own stripes are made, and it waits
        late.set()
        for rank in ranks:
            check(rank.result(5), 30)
    assert not done[0] & done[1] and len(done[0] | done[1]) == 30


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "STRIPE", 4)
    fill_lengths(tmp_path, "k", 12, square)
    (tmp_path / "k" / "000001.npz").unlink()
    seen = []
    check(fill_lengths(tmp_path, "k", 12, lambda at: seen.append(at) or square(at)), 12)
    assert seen == [4, 5, 6, 7]
    last = tmp_path / "k" / "000002.npz"
    for damaged in (b"no zip", b"", last.read_bytes()[:-30]):
        last.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"000002.npz: no lengths of records .* remove it"):
            fill_lengths(tmp_path, "k", 12, square)


def test_a_killed_process_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "STRIPE", 2)
    with pytest.raises(ConfigError, match="a process that measured records was killed"):
        fill_lengths(tmp_path, "k", 8, lambda at: os._exit(9) if at == 5 else (at + 1, 0), processes=2)


def test_keys_differ_by_what_they_are_made_of():
    assert lengths_key(1, {"a": 2}) == lengths_key(1, {"a": 2}) != lengths_key(1, {"a": 3})
