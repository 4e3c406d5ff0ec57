"""Rows in groups: every group is read once in an epoch, and the order is still drawn from seed and epoch."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.data import groups, tables
from llavakit.data.groups import Groups
from llavakit.data.loader import Loader, Position
from llavakit.data.mixture import Mixture, list_sources
from llavakit.data.settings import DataConfig
from tests import tiny

TALK = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "red"}]
SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 200)), min_size=1, max_size=6)


def table(path, ids, group):
    rows = [{"id": str(number), "conversations": TALK} for number in ids]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 3), data=st.data())
def test_a_bundle_is_read_before_the_next_begins(sizes, seed, data):
    counts, weights = (np.array(column) for column in zip(*sizes, strict=True))
    total = int(counts.sum())
    rows = np.array(
        data.draw(st.lists(st.integers(0, max(0, total - 1)), max_size=20 * bool(total))), dtype=np.int64
    )
    order = Groups(counts, weights).shuffle(rows, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(rows)))
    owner = np.repeat(np.arange(len(counts)), counts)  # the slow twin: which group each row is of
    read = owner[rows[order]].tolist()
    first = {group: read.index(group) for group in set(read)}
    last = {group: len(read) - 1 - read[::-1].index(group) for group in set(read)}
    # A group is only open together with those of its bundle, which are small enough together.
    for group in set(read):
        together = [other for other in set(read) if first[other] <= first[group] <= last[other]]
        assert sum(weights[other] for other in together[:-1]) <= groups.BUNDLE_BYTES


@pytest.fixture
def small(monkeypatch):
    """Every group is a bundle of its own, and two are held."""
    monkeypatch.setattr(groups, "BUNDLE_BYTES", 1)
    monkeypatch.setattr(tables, "KEPT_BYTES", 1)


def test_each_group_of_a_mixture_is_read_once_and_other_sources_stand_between(small, tmp_path, monkeypatch):
    table(tmp_path / "a.parquet", range(40), 5)
    table(tmp_path / "b.parquet", range(40, 80), 10)
    plain = [{"id": str(number), "conversations": TALK} for number in range(80, 120)]
    (tmp_path / "c.json").write_text(json.dumps(plain))
    (tmp_path / "mix.yaml").write_text("sources: [{path: '{a,b}.parquet'}, {path: c.json}]")
    mixture = Mixture(list_sources([tmp_path / "mix.yaml"]), seed=0)
    reads = []
    for records in mixture._files[0]:
        read = records.rows._file.read_row_group

        def counted(group, read=read, records=records):
            reads.append((records.path.name, group))
            return read(group)

        monkeypatch.setattr(
            records.rows, "_file", type("File", (), {"read_row_group": staticmethod(counted)})
        )
    order = mixture.shuffled(0, np.random.default_rng([0, 0]))
    ids = [int(mixture[index].raw["id"]) for index in order.tolist()]
    assert sorted(ids) == list(range(120)) and ids != sorted(ids)
    assert len(reads) == len(set(reads)) == 8 + 4
    assert 10 < sum(number >= 80 for number in ids[:60]) < 30  # about a third of each half
    reads.clear()
    for index in np.random.default_rng(0).permutation(len(mixture)).tolist():
        mixture[index]
    assert len(reads) > 50  # what a plain shuffle costs
    again = mixture.shuffled(0, np.random.default_rng([0, 0]))
    assert np.array_equal(order, again)
    assert not np.array_equal(order, mixture.shuffled(1, np.random.default_rng([0, 1])))


def test_without_groups_the_order_is_a_plain_shuffle(tmp_path):
    path = tiny.data_file(tmp_path)
    mixture = Mixture(list_sources([path]), seed=0)
    order = mixture.shuffled(0, np.random.default_rng(1))
    assert np.array_equal(order, mixture.reads(0)[np.random.default_rng(1).permutation(len(mixture))])


@pytest.mark.parametrize("workers", [0, 3])
def test_a_run_over_parquet_goes_on_where_it_stopped(small, workers, tmp_path):
    path = table(tmp_path / "a.parquet", range(50), 4)
    config = DataConfig(files=(path,), tokens=60, workers=workers, window=8)
    batches = Loader(config, tiny.encoder(), seed=0).batches(Position())
    seen = [next(batches) for _ in range(20)]
    batches.close()
    rest = Loader(config, tiny.encoder(), seed=0).batches(seen[9][1])
    for batch, position in seen[10:]:
        again, place = next(rest)
        assert place == position and again.ids_T.tolist() == batch.ids_T.tolist()
    rest.close()
