"""Nothing of the user's is replaced: one rule for every verb that writes a model directory."""

import pytest

from llavakit.model import checkpoint as checkpoints
from llavakit.model.build import build
from llavakit.model.settings import LoraSettings, ModelConfig
from tests import tiny


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model and adapters on it."""
    folder = tmp_path_factory.mktemp("sources")
    checkpoints.save(tiny.checkpoint(), folder / "model")
    checkpoints.save(build(ModelConfig(start=folder / "model", lora=LoraSettings(r=2))), folder / "lora")
    return folder


VERBS = {
    "convert": lambda places, out: ("convert", places / "model", out, "--to", "hf"),
    "export": lambda places, out: ("export", places / "model", out, "--for", "vllm"),
    "merge": lambda places, out: ("merge", places / "lora", out),
}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_is_replaced_when_asked_and_nothing_else_ever(places, tmp_path, run, verb):
    out = tmp_path / "out"
    words = VERBS[verb](places, out)

    def refused(*more, message):
        before = contents(out)
        code, _, err = run(*words, *more)
        assert (code, err.count("\n")) == (2, 1) and message in err, err
        assert contents(out) == before

    out.mkdir()
    assert run(*words)[0] == 0, "an empty directory is no one's"
    refused(message="--overwrite")
    assert run(*words, "--overwrite")[0] == 0
    (out / "notes.md").write_text("mine")
    refused("--overwrite", message="holds more than a model (notes.md)")
    (out / "notes.md").unlink()
    (out / "plots").mkdir()
    refused("--overwrite", message="plots")
    (out / "plots").rmdir()
    (out / "config.json").write_text('{"lr": 1}')
    refused("--overwrite", message="holds no model")


def test_a_file_a_link_and_the_source_itself_are_refused(places, tmp_path, run):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(places / "model", target_is_directory=True)
    for target, message in {
        tmp_path / "file": "is no directory",
        tmp_path / "link": "overlap",
        places / "model" / "inside": "overlap",
        places: "overlap",
    }.items():
        code, _, err = run("convert", places / "model", target, "--to", "hf", "--overwrite")
        assert code == 2 and message in err, err
