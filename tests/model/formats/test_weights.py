"""One reader of weights: what is damaged, missing or contradicting is one line, whoever reads."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.convert.convert import convert
from llavakit.model.formats.weights import open_weights, read_all
from tests import tiny
from tests.originals import write_weights

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
TENSORS = {f"t{number}": torch.full((4,), float(number)) for number in range(6)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    checkpoints.save(tiny.checkpoint(), folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "truncated": (cut, "not a complete safetensors file"),
    "pointer": (lambda file: file.write_text(POINTER), "Git LFS pointer"),
    "gone": (lambda file: file.unlink(), "no weights"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_one_line_for_chat_training_and_conversion(
    model, data_file, run, tmp_path, damage
):
    spoil, message = DAMAGE[damage]
    spoil(model / "model.safetensors")
    training = ("finetune", f"model.start={model}", f"data.files={data_file}", f"out={tmp_path / 'run'}")
    for words in (
        ("chat", "--model", model, "Hello?"),
        ("train", *training, "optim.steps=1"),
        ("convert", model, tmp_path / "out", "--to", "hf"),
        ("export", model, tmp_path / "out", "--for", "vllm"),
    ):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err and str(model) in err, err


@pytest.fixture
def data_file(tmp_path):
    return tiny.data_file(tmp_path, 4)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_pointers_in_place_of_other_files_are_named(model, name):
    (model / name).write_text(POINTER)
    with pytest.raises(UserError, match=rf"{name} is a Git LFS pointer"):
        checkpoints.load(model)


def test_a_model_in_pickles_loads_and_hostile_ones_do_not(model):
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    write_weights(model, tensors, "sharded bin")
    back, first = checkpoints.load(model).model.state_dict(), tiny.checkpoint().model.state_dict()
    assert all(torch.equal(tensor, first[key]) for key, tensor in back.items())


def sharded(folder):
    """Two shards of three tensors, and the index as a table that a test may falsify."""
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    keys = list(TENSORS)
    for name, part in zip(names, (keys[:3], keys[3:]), strict=True):
        save_file({key: TENSORS[key] for key in part}, folder / name)
    return {key: names[place >= 3] for place, key in enumerate(keys)}


def write_index(folder, where):
    text = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(text)


def test_an_index_that_contradicts_the_files_is_refused(tmp_path):
    where = sharded(tmp_path)
    write_index(tmp_path, where | {"t0": where["t5"]})
    with pytest.raises(
        UserError, match=r"says that t0 is in model-00002.*, but model-00001-of-00002.* holds it"
    ):
        open_weights(tmp_path)
    write_index(tmp_path, where | {"t9": where["t5"]})
    with pytest.raises(UserError, match=r"names 1 tensors that no file holds, such as t9"):
        open_weights(tmp_path)


def test_what_is_passed_over_is_told(tmp_path, capsys):
    where = sharded(tmp_path)
    save_file({"t0": torch.zeros(1)}, tmp_path / "model-old.safetensors")
    write_index(tmp_path, {key: file for key, file in where.items() if key != "t2"})
    found = read_all(open_weights(tmp_path))
    assert found.keys() == TENSORS.keys() - {"t2"} and torch.equal(found["t0"], TENSORS["t0"])
    told = capsys.readouterr().out
    assert "model-old.safetensors" in told and "1 tensors, such as t2" in told


def test_without_an_index_a_single_file_stands_alone_and_copies_are_refused(tmp_path, capsys):
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file({"t0": torch.zeros(1)}, tmp_path / "model.fp16.safetensors")
    assert torch.equal(open_weights(tmp_path)["t0"].read(), TENSORS["t0"])
    assert (
        "not read, as model.safetensors is the whole model: model.fp16.safetensors" in capsys.readouterr().out
    )
    (tmp_path / "model.safetensors").rename(tmp_path / "model-a.safetensors")
    with pytest.raises(UserError, match="two files hold t0"):
        open_weights(tmp_path)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "connector.safetensors"])
def test_damaged_adapters_are_one_line(model, tmp_path, file):
    from llavakit.model.build import build
    from llavakit.model.settings import LoraSettings, ModelConfig

    checkpoints.save(build(ModelConfig(start=model, lora=LoraSettings(r=2, alpha=4))), tmp_path / "lora")
    cut(tmp_path / "lora" / file)
    for read in (
        lambda: checkpoints.load(tmp_path / "lora"),
        lambda: convert(tmp_path / "lora", tmp_path / "out", "hf"),
    ):
        with pytest.raises(UserError, match=rf"{file}: not a complete safetensors file"):
            read()
