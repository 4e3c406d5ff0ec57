"""Settings: changed by `path=value`, written and read back unchanged, and every mistake is one line."""

import re
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from llavakit.core.config import Config, dump, load, make, override, save, setting_names
from llavakit.core.errors import ConfigError, nearest, pick


class Rates(Config):
    tower: float = 1e-6
    language: float = 2e-5


class Optim(Config):
    lr: Rates = Field(default_factory=Rates)
    steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)


class Whole(Config):
    name: str = "run"
    out: Path = Path("runs/x")
    kind: Literal["pad", "square"] = "pad"
    files: tuple[Path, ...] = ()
    shuffle: bool = True
    optim: Optim = Field(default_factory=Optim)
    start: Rates | None = None


CASES = {
    "optim.lr.language=1e-5": ("optim.lr.language", 1e-5),
    "optim.lr.language=1.0e-5": ("optim.lr.language", 1e-5),
    "optim.lr.language=3": ("optim.lr.language", 3.0),
    "optim.steps=100": ("optim.steps", 100),
    "optim.steps=1e3": ("optim.steps", 1000),
    "optim.steps=null": ("optim.steps", None),
    "optim.betas=[0.8, 0.95]": ("optim.betas", (0.8, 0.95)),
    "files=[a.json, b.json]": ("files", (Path("a.json"), Path("b.json"))),
    "shuffle=false": ("shuffle", False),
    "shuffle=no": ("shuffle", False),
    "kind=square": ("kind", "square"),
    "name=a=b": ("name", "a=b"),
    "name='1e5'": ("name", "1e5"),
    "name='true'": ("name", "true"),
    "name='a: b'": ("name", "a: b"),
    "name=東京": ("name", "東京"),
    "out=/tmp/x y": ("out", Path("/tmp/x y")),
}


@pytest.mark.parametrize("setting", CASES)
def test_a_setting_is_changed_and_nothing_else_is(setting):
    path, value = CASES[setting]
    changed = override(Whole(), [setting])
    found = changed
    for name in path.split("."):
        found = dict(found)[name]
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)
    tree, plain = changed.model_dump(), Whole().model_dump()
    *parents, leaf = path.split(".")
    node, other = tree, plain
    for name in parents:
        node, other = node[name], other[name]
    other[leaf] = node[leaf]
    assert tree == plain


def test_later_settings_win_and_the_original_stays():
    base = Whole()
    assert override(base, ["optim.steps=1", "optim.steps=2"]).optim.steps == 2
    assert override(base, []) == base == Whole()
    with pytest.raises(ValidationError):
        base.name = "other"


MISTAKES = {
    "optim.stepz=3": "command line: unknown setting 'optim.stepz'; did you mean 'optim.steps'",
    "nothing=3": "command line: unknown setting 'nothing'",
    "optim.lr.language.x=3": "command line: unknown setting 'optim.lr.language.x'; did you mean",
    "otpim.steps=3": "command line: unknown setting 'otpim.steps'; did you mean 'optim.steps'",
    "start.tower=3": "command line: start is not set here; give it whole: start='{name: value}'",
    "=3": "command line: unknown setting ''",
    "optim.steps": "command line: 'optim.steps' is not a setting; write path=value",
    "optim.steps=abc": "command line: optim.steps='abc': input should be a valid integer",
    "optim.steps=1.5": "command line: optim.steps=1.5: input should be a valid integer",
    "optim.lr.tower=inf": "command line: optim.lr.tower=inf: input should be a finite number",
    "optim.lr.tower=.nan": "command line: optim.lr.tower=nan: input should be a finite number",
    "optim.lr.tower=fast": "command line: optim.lr.tower='fast': input should be a valid number",
    "optim=3": "command line: optim=3: expected settings as {name: value}",
    "shuffle=maybe": "command line: shuffle='maybe': input should be a valid boolean",
    "kind=round": "command line: kind='round': input should be 'pad' or 'square'",
    "optim.betas=[0.9]": "command line: optim.betas",
    "name=[a": "command line: 'name=[a': the value is not YAML; quote it",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_setting(setting):
    with pytest.raises(ConfigError) as caught:
        override(Whole(), [setting])
    assert str(caught.value).startswith(MISTAKES[setting])
    assert "\n" not in str(caught.value)


@hypothesis_settings(derandomize=True, max_examples=60, deadline=None)
@given(
    whole=st.builds(
        Whole,
        name=st.text(st.characters(exclude_categories=["Cs"])),
        kind=st.sampled_from(["pad", "square"]),
        files=st.lists(st.text("ab/. é", min_size=1).map(Path), max_size=3).map(tuple),
        shuffle=st.booleans(),
        optim=st.builds(
            Optim,
            lr=st.builds(Rates, tower=st.floats(allow_nan=False), language=st.floats(0, 1)),
            steps=st.none() | st.integers(),
        ),
        start=st.none() | st.builds(Rates),
    )
)
def test_what_is_dumped_is_read_back(whole):
    assert make(Whole, yaml.safe_load(dump(whole)), where="dump") == whole


def test_a_saved_file_is_complete_and_loads(tmp_path):
    whole = override(Whole(), ["name=東京", "optim.lr.language=1e-5", "files=[a.json]"])
    save(whole, tmp_path / "new" / "run.yaml")
    assert load(Whole, tmp_path / "new" / "run.yaml") == whole
    assert set(yaml.safe_load((tmp_path / "new" / "run.yaml").read_text(encoding="utf-8"))) == set(
        Whole.model_fields
    )


def test_a_file_by_hand_may_leave_out_what_is_default(tmp_path):
    (tmp_path / "run.yaml").write_text("optim: {steps: 5}\n")
    assert load(Whole, tmp_path / "run.yaml") == override(Whole(), ["optim.steps=5"])


FILES = {
    b"optim: [": "not YAML: ",
    b"a: b: c": "not YAML: ",
    b"\t- x": "not YAML: ",
    b"\xff\xfe\x00\x80": "not YAML: not a text file",
    b"\x00": "not YAML: ",
    b"- a\n- b\n": "expected settings as `name: value`, found list",
    b"": "expected settings as `name: value`, found NoneType",
    b"optim: {stepz: 3}": "unknown setting 'optim.stepz'; did you mean 'optim.steps'",
    b"optim: {steps: abc}": "optim.steps='abc': input should be a valid integer",
}


@pytest.mark.parametrize("content", FILES, ids=repr)
def test_a_wrong_file_is_one_line_that_names_it(content, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {FILES[content]}")) as caught:
        load(Whole, path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        load(Whole, tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(Whole, tmp_path)


def test_a_missing_setting_is_named():
    class Strict(Config):
        path: str

    with pytest.raises(ConfigError, match="here: path is missing"):
        make(Strict, {}, where="here")


def test_every_path_can_be_named():
    names = setting_names(Whole)
    assert names[:4] == ["name", "out", "kind", "files"]
    assert {"optim", "optim.lr", "optim.lr.tower", "optim.steps"} <= set(names)


def test_the_nearest_names_come_first_and_else_all():
    assert nearest("vicuna", ["vicuna_v1", "plain"]) == "; did you mean 'vicuna_v1'?"
    assert nearest("zzz", ["b", "a"]) == "; valid: a, b"
    assert pick({"a": 1}, "a", "thing") == 1
    with pytest.raises(ConfigError, match="unknown thing 'zzz'; valid: a, b"):
        pick({"a": 1, "b": 2}, "zzz", "thing")
