"""Mixtures: both lists, every strategy, weights over epochs, and one line for every mistake."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llavakit.core.errors import DataError
from llavakit.data.mixture import Mixture, Source, Take, list_sources, parse_take
from tests import tiny

TAKES = st.one_of(
    st.just("all"),
    st.builds(
        "{}:{}{}".format,
        st.sampled_from(["first", "end", "random"]),
        st.integers(1, 100),
        st.sampled_from(["", "%"]),
    ),
)


def put(path: Path, count: int) -> Path:
    """Records whose ids say where they come from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        tiny.record(number, None, [("q", "a")]) | {"id": f"{path.stem}{number}"} for number in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


def ids(mixture: Mixture, epoch: int = 0) -> list[str]:
    return [mixture[index].raw["id"] for index in mixture.reads(epoch).tolist()]


def read(path: Path, seed: int = 0) -> list[str]:
    return ids(Mixture(list_sources([path]), seed=seed))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=TAKES, count=st.integers(0, 60), seed=st.integers(0, 3))
def test_a_strategy_takes_what_the_released_code_takes(text, count, seed):
    chosen = parse_take(text).choose(count, np.random.default_rng(seed)).tolist()
    rule, _, number = text.partition(":")
    rows = list(range(count))
    if rule == "all":
        assert chosen == rows
        return
    wanted = math.ceil(int(number[:-1]) * count / 100) if number.endswith("%") else int(number)
    if rule == "random":
        assert len(set(chosen)) == len(chosen) == min(wanted, count)
        assert chosen == sorted(chosen) and set(chosen) <= set(rows)
    else:
        assert chosen == (rows[:wanted] if rule == "first" else rows[-wanted:] if wanted else [])


def test_a_share_is_rounded_up_from_the_exact_number():
    """In floating point 7 % of 100 is a little more than 7, which would be rounded up to 8."""
    assert math.ceil(0.07 * 100) == 8
    assert len(parse_take("first:7%").choose(100, np.random.default_rng(0))) == 7
    assert len(parse_take("first:0.5%").choose(201, np.random.default_rng(0))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "some",
        "first",
        "first:",
        "first:x",
        "first:-1",
        "first:0",
        "end:101%",
        "random:1.5",
        "all:3",
        "First:1",
    ],
)
def test_a_bad_strategy_is_refused(text):
    with pytest.raises(ValueError):
        parse_take(text)


def test_the_list_of_llava_next_reads_as_it_is(tmp_path, monkeypatch):
    for name in "abcde":
        put(tmp_path / "data" / f"{name}.json", 10)
    (tmp_path / "list").mkdir()
    path = tmp_path / "list" / "mid_stage.yaml"
    path.write_text(f"""\
datasets:
  - json_path: data/a.json   # from where the program runs
    sampling_strategy: first:1
  - json_path: {tmp_path}/data/b.json
    sampling_strategy: "end:11%"
  - json_path: data/c.json
    sampling_strategy: all
  - json_path: data/{{d,e}}.json
    sampling_strategy: random:3
""")
    monkeypatch.chdir(tmp_path)
    chosen = read(path)
    assert chosen[:13] == ["a0", "b8", "b9", *(f"c{number}" for number in range(10))]
    assert len(set(chosen[13:])) == 3 and {name[0] for name in chosen[13:]} <= {"d", "e"}
    drawn = {tuple(read(path, seed)[13:]) for seed in range(4)}
    assert read(path) == chosen and len(drawn) > 1


def test_our_list_has_names_folders_and_weights_and_starts_at_its_own_folder(tmp_path):
    for name in ("0", "1", "2"):
        put(tmp_path / "lists" / "parts" / f"x{name}.json", 2)
    (tmp_path / "lists" / "mix.yaml").write_text("""\
sources:
  - {path: "parts/x{0..1}.json", name: captions, images: pictures, weight: 2}
  - {path: parts/x2.json, take: "end:1"}
""")
    first, second = list_sources([tmp_path / "lists" / "mix.yaml"], Path("/all"))
    folder = tmp_path / "lists"
    paths = (folder / "parts/x0.json", folder / "parts/x1.json")
    assert first == Source("captions", paths, folder / "pictures", weight=2.0)
    assert second == Source(
        "parts/x2.json", (folder / "parts/x2.json",), Path("/all"), Take("end", share=False)
    )
    mixture = Mixture([first, second], seed=0)
    assert ids(mixture) == ["x00", "x01", "x10", "x11"] * 2 + ["x21"]
    assert (len(mixture), mixture.num_reads) == (5, 9)
    assert [mixture.source_of(index) for index in range(5)] == [0, 0, 0, 0, 1]
    assert [mixture.place(index) for index in range(5)] == [record.name for record in mixture]
    assert [record.folder for record in mixture] == [folder / "pictures"] * 4 + [Path("/all")]


def test_files_and_lists_stand_beside_each_other_and_braces_count_with_zeros(tmp_path):
    for name in ("a", "08", "09", "10"):
        put(tmp_path / f"{name}.json", 1)
    (tmp_path / "mix.yml").write_text("sources: [{path: a.json}]")
    sources = list_sources([tmp_path / "{08..10}.json", tmp_path / "mix.yml"])
    assert ids(Mixture(sources, seed=0)) == ["080", "090", "100", "a0"]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(weight=st.integers(1, 300).map(lambda n: n / 100), seed=st.integers(0, 2))
def test_epochs_of_a_broken_weight_read_all_records_equally_often(tmp_path_factory, weight, seed):
    path = put(tmp_path_factory.mktemp("mix") / "a.json", 20)
    mixture = Mixture([Source("a", (path,), weight=weight)], seed=seed)
    seen: Counter[int] = Counter({number: 0 for number in range(20)})
    for epoch in range(7):
        reads = mixture.reads(epoch).tolist()
        assert len(reads) == mixture.num_reads == int(weight) * 20 + round((weight - int(weight)) * 20)
        seen.update(reads)
        assert max(seen.values()) - min(seen.values()) <= 1
    assert np.array_equal(mixture.reads(3), Mixture(mixture.sources, seed=seed).reads(3))


def test_numbers_outside_a_mixture_are_refused(tmp_path):
    mixture = Mixture([Source("a", (put(tmp_path / "a.json", 2),))], seed=0)
    assert mixture[-1].raw["id"] == "a1" and [record.raw["id"] for record in mixture[0:1]] == ["a0"]
    for index in (2, -3):
        with pytest.raises(IndexError):
            mixture[index]


MISTAKES = {
    "an unknown key": (
        "sources: [{path: a.json, wieght: 2}]",
        "sources, entry 1: unknown key 'wieght'; did you mean 'weight'?",
    ),
    "our key in theirs": (
        "datasets: [{json_path: a.json, weight: 2}]",
        "datasets, entry 1: unknown key 'weight'",
    ),
    "no path": ("datasets: [{sampling_strategy: all}]", "datasets, entry 1: must have 'json_path'"),
    "a missing file": (
        "sources: [{path: a.json}, {path: b.json}]",
        "sources, entry 2: data file not found: ",
    ),
    "a bad strategy": (
        "sources: [{path: a.json, take: last:3}]",
        "sources, entry 1: 'last:3' is none of all, first:N, ",
    ),
    "a strategy that takes nothing": (
        "sources: [{path: a.json, take: 'first:0'}]",
        "sources, entry 1: 'first:0' must take",
    ),
    "a strategy that is a number": (
        "sources: [{path: a.json, take: 3}]",
        "sources, entry 1: take is 3; it must be a text",
    ),
    "a weight of nothing": (
        "sources: [{path: a.json, weight: 0}]",
        "sources, entry 1: weight is 0; it must be a number above 0",
    ),
    "a weight that is a text": ("sources: [{path: a.json, weight: x}]", "sources, entry 1: weight is 'x'"),
    "a weight that is not a number": (
        "sources: [{path: a.json, weight: .nan}]",
        "sources, entry 1: weight is nan",
    ),
    "braces that count down": ("sources: [{path: '{3..1}.json'}]", "sources, entry 1: {3..1} must count up"),
    "an entry that is a text": ("sources: [a.json]", "sources, entry 1: must have 'path'"),
    "an empty list": ("sources: []", "'sources' must be a list of at least one entry"),
    "two lists": ("{sources: [], datasets: []}", "a mixture is one list, 'sources:' (ours) or 'datasets:'"),
    "another document": ("- a.json", "a mixture is one list"),
    "nothing": ("", "a mixture is one list"),
    "not YAML": ("sources: [", "not YAML: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_list_is_one_line_with_its_entry(name, tmp_path):
    text, problem = MISTAKES[name]
    put(tmp_path / "a.json", 1)
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list_sources([path])
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)


def test_missing_files_and_lists_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: data file not found"):
        list_sources([tmp_path / "{gone}.json"])
    with pytest.raises(DataError, match=r"gone\.yaml: mixture not found"):
        list_sources([tmp_path / "gone.yaml"])
    assert list_sources([Path("hf:org/set:test")])[0].paths == (Path("hf:org/set:test"),)
