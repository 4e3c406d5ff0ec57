"""Parquet, saved data sets, the hub by name and tar shards give the records that JSON gives."""

import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from llavakit.core.errors import ConfigError, DataError
from llavakit.data import index, shards
from llavakit.data.records import read_records
from llavakit.text.conversation import Image, Video
from tests import tiny

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A shape."}]
ROWS = [
    {"id": "0", "image": {"bytes": b"zero", "path": None}, "conversations": TALK},
    {"id": "1", "image": {"bytes": None, "path": "1.png"}, "conversations": TALK},
    {"id": "2", "image": None, "conversations": [{"from": "human", "value": "q"}, TALK[1]]},
    {"id": "3", "image": {"bytes": b"three", "path": "3.png"}, "conversations": TALK},
    {"id": "4", "image": {"bytes": b"four", "path": ""}, "conversations": TALK},
]
SOURCES = [[b"zero"], [Path("/pictures/1.png")], [], [b"three"], [b"four"]]


def sources(path: Path) -> list[list]:
    """What every record shows."""
    records = read_records(path, Path("/pictures"))
    return [[medium.source for medium in record.conversation().media] for record in records]


def parquet(path: Path, group: int = 2) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=group)
    return path


def saved(folder: Path) -> Path:
    """The files that `Dataset.save_to_disk` writes, in two parts."""
    folder.mkdir()
    names = []
    for number, rows in enumerate((ROWS[:3], ROWS[3:])):
        names.append(f"data-{number:05}-of-00002.arrow")
        table = pyarrow.Table.from_pylist(rows, schema=pyarrow.Table.from_pylist(ROWS).schema)
        with pyarrow.ipc.new_stream(folder / names[-1], table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


@pytest.mark.parametrize("group", [1, 2, 100])
def test_parquet_rows_are_records_in_any_order(group, tmp_path):
    path = parquet(tmp_path / "a.parquet", group)
    assert sources(path) == SOURCES
    records = read_records(path)
    assert [records[at].raw["id"] for at in (4, 0, 3, 1, 2)] == ["4", "0", "3", "1", "2"]
    assert records[3].name == f"{path}:4"


def test_lists_of_paths_and_of_bytes_are_read_from_a_table(tmp_path):
    path = tmp_path / "a.parquet"
    talk = [{"from": "human", "value": "<image><image>"}, TALK[1]]
    for cells, found in (
        (["a.png", "b.png"], [Path("/pictures/a.png"), Path("/pictures/b.png")]),
        ([b"a", b"b"], [b"a", b"b"]),
    ):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{"image": cells, "conversations": talk}]), path
        )
        assert sources(path) == [found]


def test_a_saved_data_set_is_read_across_its_parts(tmp_path):
    path = saved(tmp_path / "set")
    assert sources(path) == SOURCES
    assert read_records(path)[3].name == f"{path}:4"


def test_a_directory_of_splits_and_a_cut_part_are_told(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="a directory of several splits; name one of the directories in it"):
        read_records(tmp_path)
    path = saved(tmp_path / "set")
    part = path / "data-00001-of-00002.arrow"
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read_records(path)


def test_state_names_files_of_its_own_folder_only(tmp_path):
    path = saved(tmp_path / "set")
    (tmp_path / "secret.arrow").write_bytes((path / "data-00000-of-00002.arrow").read_bytes())
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read_records(path)


@pytest.mark.parametrize(
    ("name", "asked"), [("org/set", ("org/set", "train")), ("set:test", ("set", "test"))]
)
def test_a_hub_name_is_loaded_by_datasets_and_not_decoded(name, asked, monkeypatch):
    """`datasets` itself is replaced: it would go to the network."""
    calls = []

    class Rows(list):
        def with_format(self, kind: str) -> "Rows":
            calls.append(kind)
            return self

    def load_dataset(name: str, split: str) -> Rows:
        calls.append((name, split))
        table = pyarrow.Table.from_pylist(ROWS)
        return Rows(table.slice(number, 1) for number in range(len(ROWS)))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert sources(Path(f"hf:{name}")) == SOURCES
    assert calls == [asked, "arrow"]


def test_a_name_that_the_hub_lacks_is_one_line(monkeypatch):
    def load_dataset(name: str, split: str) -> None:
        raise FileNotFoundError("no such set\nand much more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError) as caught:
        read_records(Path("hf:nobody/nothing"))
    assert str(caught.value) == "hf:nobody/nothing: `datasets` cannot load it: no such set"


@pytest.mark.parametrize("where", ["a.parquet", "hf:org/set"])
def test_a_missing_package_names_the_extra(where, tmp_path, monkeypatch):
    for package in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.parquet").write_bytes(b"")
    path = Path(where) if where.startswith("hf:") else tmp_path / where
    with pytest.raises(ConfigError, match=r"need (pyarrow|datasets): pip install 'llavakit\[data\]'"):
        read_records(path)


def test_a_file_that_is_not_parquet_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet: "):
        read_records(tmp_path / "a.parquet")


def shard(path: Path, members: list[tuple[str, bytes]], kind: str = "w") -> Path:
    with tarfile.open(path, kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def text(*marks: str, **more: object) -> bytes:
    talk = [{"from": "human", "value": "".join(marks) + "q"}, TALK[1]]
    return json.dumps({"conversations": talk, **more}).encode()


def test_a_shard_has_a_record_for_every_key(tmp_path):
    long = "folder/" + "x" * 200
    path = shard(
        tmp_path / "a.tar",
        [
            ("s/0.json", text("<image>")), ("s/0.jpg", b"zero"),
            ("s/1.0.png", b"first"), ("s/1.json", text("<image>", "<image>")), ("s/1.1.PNG", b"second"),
            ("s/2.json", text()),
            ("s/3.json", text("<image>", image="b.png")), ("s/3.a.png", b"a"), ("s/3.b.png", b"b"),
            ("t/3.json", text("<image>", image=["t/3.a.png"])), ("t/3.a.png", b"other"),
            ("t/4.json", text("<video>")), ("t/4.mp4", b"film"),
            (f"{long}.json", text("<image>")), (f"{long}.jpg", b"long"),
        ],
    )  # fmt: skip
    records = read_records(path)
    media = [record.conversation().media for record in records]
    assert media == [
        (Image(b"zero"),), (Image(b"first"), Image(b"second")), (), (Image(b"b"),), (Image(b"other"),),
        (Video(b"film"),), (Image(b"long"),),
    ]  # fmt: skip
    assert records[6].name == f"{path}:7"


def test_what_macos_and_people_add_to_a_shard_is_no_sample(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        [
            ("README.md", b"# pictures"), ("LICENSE", b"mine"),
            ("._0.json", b"\0\5\x16"), ("0.json", text("<image>")), ("._0.jpg", b"\0\5"), ("0.jpg", b"zero"),
            (".DS_Store", b"Bud1"), ("__MACOSX/1.json", b"\0"), ("s/__MACOSX/1.jpg", b"\0"),
            ("s/.DS_Store", b"Bud1"), ("s/1.json", text()), ("s/1.txt", b"a caption"),
        ],
    )  # fmt: skip
    assert [record.conversation().media for record in read_records(path)] == [(Image(b"zero"),), ()]


def test_a_number_of_5000_digits_in_a_shard_is_a_flaw_of_its_sample(tmp_path):
    path = shard(tmp_path / "a.tar", [("0.json", b'{"id": ' + b"9" * 5000 + b"}"), ("1.json", text())])
    first, second = read_records(path)
    with pytest.raises(DataError, match=r"a\.tar:1: '0\.json' is not JSON that can be read: "):
        first.conversation()
    assert second.conversation().media == ()


def test_a_large_shard_is_indexed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "KEEP_FROM", 0)
    long = "folder/" + "x" * 200 + "é"
    members = [("0.json", text("<image>")), ("0.png", b"zero"), (f"{long}.json", text())]
    path = shard(tmp_path / "a.tar", members)
    first = [(record.raw, record.conversation().media) for record in read_records(path)]
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_entries", None)  # would fail if it were called
        again = read_records(path)
        assert [(record.raw, record.conversation().media) for record in again] == first
    assert first[0][1] == (Image(b"zero"),) and len(first) == 2
    shard(path, [("9.json", text()), *members])
    assert len(read_records(path)) == 3


def test_an_empty_shard_has_no_records(tmp_path):
    assert list(read_records(shard(tmp_path / "a.tar", []))) == []


BAD_SAMPLES = {
    "no record": ([("0.jpg", b"x")], "sample '0' has 0 .json members; it must have one"),
    "two records": ([("0.json", b"{}"), ("0.b.json", b"{}")], "sample '0' has 2 .json members"),
    "not JSON": ([("0.json", b"{")], "'0.json' is not JSON: "),
    "not UTF-8": ([("0.json", b"\xff")], "'0.json' is not UTF-8: "),
    "a list": ([("0.json", b"[]")], "a record must be an object, found list"),
    "an unknown member": (
        [("0.json", text("<image>", image="/etc/passwd")), ("0.png", b"x")],
        "'/etc/passwd' is not a member of sample '0', which has '0.json', '0.png'",
    ),
    "a path in an object": (
        [("0.json", text("<image>", image={"path": "/etc/passwd"}))],
        "'/etc/passwd' is not a member of sample '0'",
    ),
    "a member of another sample": (
        [("0.json", text("<image>", image="1.png")), ("1.png", b"x")],
        "'1.png' is not a member of sample '0'",
    ),
}


@pytest.mark.parametrize("flaw", BAD_SAMPLES)
def test_a_flaw_of_a_sample_is_told_with_shard_and_number(flaw, tmp_path):
    members, problem = BAD_SAMPLES[flaw]
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        read_records(path)[0].conversation()
    assert str(caught.value).startswith(f"{path}:1: {problem}")
    assert "\n" not in str(caught.value)


def test_links_in_a_shard_lead_nowhere_and_nothing_is_written(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "0.png"),
            (tarfile.LNKTYPE, "0.jpg"),
            (tarfile.DIRTYPE, "0.gif"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../secret.png"
            archive.addfile(info)
        for name, data in (("0.json", text("<image>")), ("../out.json", text())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    records = read_records(folder / "a.tar")
    with pytest.raises(DataError, match="1 <image> placeholder"):
        records[0].conversation()
    assert records[1].conversation().media == ()
    assert [path.name for path in folder.iterdir()] == ["a.tar"]
    assert not (tmp_path / "out.json").exists()


def test_sizes_of_members_are_limited(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.tar", [("0.json", text("<image>")), ("0.png", b"x" * 300)])
    monkeypatch.setattr(shards, "MAX_MEDIA", 299)
    with pytest.raises(DataError, match=r"'0\.png' has 300 bytes; the limit is 299"):
        read_records(path)[0].conversation()
    monkeypatch.setattr(shards, "MAX_JSON", 10)
    with pytest.raises(DataError, match=r"'0\.json' has \d+ bytes; the limit is 10"):
        read_records(path)[0].conversation()


def test_cut_and_packed_archives_are_refused_when_they_are_opened(tmp_path):
    path = shard(tmp_path / "a.tar", [("0.json", text()), ("0.png", b"x" * 2000)])
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(DataError, match=r"a\.tar: "):
        read_records(path)
    packed = shard(tmp_path / "b.tar.gz", [("0.json", text())], "w:gz")
    with pytest.raises(DataError, match="packed files cannot be read at random"):
        read_records(packed)
    packed.rename(tmp_path / "b.tar")
    with pytest.raises(DataError, match=r"b\.tar: not a plain \(unpacked\) tar archive"):
        read_records(tmp_path / "b.tar")


def test_pictures_of_tables_and_shards_are_encoded_like_files(tmp_path):
    """One picture, three ways to store it: the samples differ in nothing but where the picture comes from."""
    picture = tiny.picture(tmp_path / "x.png")
    row = tiny.record(0, "x.png", [("What?", "A shape.")])
    (tmp_path / "a.json").write_text(json.dumps([row]))
    cell = {"bytes": picture.read_bytes(), "path": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row | {"image": cell}]), tmp_path / "a.parquet")
    del row["image"]
    shard(tmp_path / "a.tar", [("0.json", json.dumps(row).encode()), ("0.png", picture.read_bytes())])
    encoder = tiny.encoder()
    samples = [
        encoder.encode(read_records(tmp_path / name)[0].conversation())
        for name in ("a.json", "a.parquet", "a.tar")
    ]
    assert len({(sample.ids, sample.weights, sample.media[0].plan) for sample in samples}) == 1
    assert len({sample.media[0].content() for sample in samples}) == 1
