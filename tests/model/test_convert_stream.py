"""Conversion holds one tensor, never the model; what goes wrong is one line, and nothing is left half written."""

import errno
import json
import os
import pickle
import sys
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from llavakit import cli
from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.assemble import Sources
from llavakit.model.connector import build_connector
from llavakit.model.convert.convert import Options, convert
from llavakit.model.formats import shards, weights
from llavakit.model.formats.shards import write_shards
from llavakit.model.formats.weights import Stored, in_memory, open_weights
from tests import tiny
from tests.originals import Original, read_weights, write_weights

VICUNA = Options(template="vicuna_v1")


class Alive:
    """Bytes of tensors that were read and not yet let go."""

    def __init__(self):
        self.bytes = self.most = 0

    def seen(self, tensor):
        size = tensor.numel() * tensor.element_size()
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(tensor, self._gone, size)
        return tensor

    def _gone(self, size):
        self.bytes -= size


@pytest.fixture
def run(capsys, monkeypatch):
    """The command line in this process: exit code and what it says on stderr."""

    def call(*words):
        capsys.readouterr()  # what the test's own preparations said
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["llavakit", "convert", *map(str, words)])
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        return code, capsys.readouterr().err

    return call


def test_one_tensor_is_alive(tmp_path):
    alive = Alive()
    table = {
        f"t{number}": Stored((26,), lambda number=number: alive.seen(torch.full((26,), float(number))))
        for number in range(40)
    }
    write_shards(table, tmp_path, shard_bytes=350)
    assert alive.most == 104 and alive.bytes == 0
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(names) == 14 and names[0] == "model-00001-of-00014.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 40 * 104 and set(index["weight_map"].values()) == set(names)
    found = read_weights(tmp_path)
    assert all(torch.equal(found[f"t{number}"], torch.full((26,), float(number))) for number in range(40))


def test_every_number_begins_at_a_multiple_of_its_size(tmp_path):
    """Tensors of odd sizes among others, empty ones, single numbers: other readers map what they find."""
    kinds = [torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.float16, torch.bool]
    table = {
        f"{kind}-{shape}".replace("torch.", ""): torch.arange(8)
        .repeat(3)[: torch.Size(shape).numel()]
        .to(kind)
        .reshape(shape)
        for kind in kinds
        for shape in ((), (3,), (5, 3), (0, 4), (8,))
    }
    write_shards(in_memory(table), tmp_path)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    found = load_file(file)
    for name, tensor in table.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0 or not tensor.numel(), name


@pytest.mark.parametrize("layout", ["sharded bin", "sharded safetensors"])
def test_a_whole_conversion_reads_one_file_at_a_time(tmp_path, monkeypatch, layout):
    """Pickles come a file at a time, safetensors a tensor at a time; what is written is let go."""
    expected = Original("qwen2").save(tmp_path / "original", layout)
    alive = Alive()
    load, get = weights._load_pickle, weights._get
    monkeypatch.setattr(
        weights, "_load_pickle", lambda file: {key: alive.seen(value) for key, value in load(file).items()}
    )
    monkeypatch.setattr(weights, "_get", lambda *place: alive.seen(get(*place)))
    convert(
        tmp_path / "original",
        tmp_path / "ours",
        "llavakit",
        Options(template="vicuna_v1", shard_bytes=40_000),
    )
    sizes = [value.numel() * value.element_size() for value in expected.values()]
    file = max([0, *(path.stat().st_size for path in (tmp_path / "original").glob("*.bin"))])
    assert 0 < alive.most <= file + 2 * max(sizes) < sum(sizes)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 8
    checkpoints.load(tmp_path / "ours")


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_an_interrupted_conversion_leaves_what_was_there(tmp_path, monkeypatch, trouble):
    Original().save(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "out", "llavakit", VICUNA)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real, calls = shards._Shard.end, []

    def failing(shard):
        calls.append(1)
        if len(calls) == 3:
            raise trouble
        return real(shard)

    monkeypatch.setattr(shards._Shard, "end", failing)
    expected, message = (
        (KeyboardInterrupt, None) if isinstance(trouble, KeyboardInterrupt) else (UserError, "No space left")
    )
    with pytest.raises(expected, match=message):
        convert(
            tmp_path / "original",
            tmp_path / "out",
            "llavakit",
            Options(template="vicuna_v1", shard_bytes=30_000, overwrite=True),
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-tower", "original", "out"]


def test_the_command_converts(tmp_path, run):
    original = Original()
    expected = original.save(tmp_path / "original")
    assert run(
        tmp_path / "original",
        tmp_path / "hf",
        "--to",
        "hf",
        "--template",
        "vicuna_v1",
        "--shard-size",
        "0.0002",
    ) == (0, "")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    assert run(tmp_path / "hf", tmp_path / "back", "--to", "original")[0] == 0
    assert read_weights(tmp_path / "back").keys() == expected.keys()


def one_line(result, *words):
    code, err = result
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err


@pytest.mark.parametrize("place", ["weights", "projector", "adapter"])
def test_a_pickle_that_could_run_code_is_refused(tmp_path, run, place):
    class Hostile:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    original = Original()
    original.save(tmp_path / "original", "bin")
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    (stage1 / "config.json").write_text(json.dumps(original.config(stage1)))
    folder, words = stage1, ["--base", tmp_path / "original"]
    if place == "weights":
        folder, words, file = tmp_path / "original", [], tmp_path / "original/pytorch_model.bin"
    elif place == "projector":
        file = stage1 / "mm_projector.bin"
    else:
        file = stage1 / "adapter_model.bin"
        (stage1 / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    file.write_bytes(pickle.dumps({"model.norm.weight": Hostile()}))
    one_line(
        run(folder, tmp_path / "out", "--to", "hf", "--template", "vicuna_v1", *words), "refused", file.name
    )
    assert not (tmp_path / "owned").exists() and not (tmp_path / "out").exists()


def test_shards_that_are_missing_or_wrong(tmp_path, run):
    words = ("--to", "hf", "--template", "vicuna_v1")
    for layout, name in {"sharded bin": "pytorch_model", "sharded safetensors": "model"}.items():
        folder = tmp_path / layout.replace(" ", "-") / "model"
        Original().save(folder, layout)
        ending = layout.split()[1]
        second = folder / f"{name}-00002-of-00003.{ending}"
        third = folder / f"{name}-00003-of-00003.{ending}"
        kept = third.read_bytes()
        third.write_bytes(second.read_bytes())
        one_line(run(folder, tmp_path / "out", *words), "that no file holds", third.name)
        third.write_bytes(kept[: len(kept) // 2])
        one_line(run(folder, tmp_path / "out", *words), third.name)
        third.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        one_line(run(folder, tmp_path / "out", *words), third.name, "git lfs pull")
        third.unlink()
        one_line(run(folder, tmp_path / "out", *words), third.name, "missing")
        (folder / f"{name}.{ending}.index.json").unlink()
        one_line(run(folder, tmp_path / "out", *words), "2 of 3 shards")


def test_a_projector_that_does_not_fit_is_named_with_what_is_expected(tmp_path, run):
    words = ("--to", "hf", "--template", "vicuna_v1")
    Original(projector="linear").save(tmp_path / "a" / "model", mm_projector_type="mlp2x_gelu")
    one_line(
        run(tmp_path / "a" / "model", tmp_path / "out", *words),
        "mlp2x_gelu",
        "width 32",
        "width 48",
        "[48, 32]",
    )
    original = Original()
    original.projector = torch.nn.Sequential(
        torch.nn.Linear(64, 48), torch.nn.GELU(), torch.nn.Linear(48, 48)
    )
    original.save(tmp_path / "b" / "model")
    one_line(run(tmp_path / "b" / "model", tmp_path / "out", *words), "tower of width 32", "[48, 64]")
    Original().save(tmp_path / "c" / "model", mm_projector_type="mlp2x_res2x_gelu")
    one_line(
        run(tmp_path / "c" / "model", tmp_path / "out", *words), "mlp2x_res2x_gelu", "linear, mlp2x_gelu"
    )


def test_weights_that_are_missing_or_unknown(tmp_path, run):
    original = Original()
    tensors = original.save(tmp_path / "original")
    lost = dict(tensors)
    del lost["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "original" / "model.safetensors").unlink()
    write_weights(tmp_path / "original", lost, "safetensors")
    words = (tmp_path / "original", tmp_path / "out", "--to", "hf", "--template", "vicuna_v1")
    one_line(run(*words), "1 missing ['language.model.layers.1.mlp.up_proj.weight']")
    write_weights(tmp_path / "original", tensors | {"model.layers.0.mystery": torch.ones(1)}, "safetensors")
    one_line(run(*words), "1 unknown ['language.model.layers.0.mystery']")


def test_what_must_be_named_is_asked_for(tmp_path, run):
    original = Original()
    original.save(tmp_path / "original", inside=False)
    source, out = tmp_path / "original", tmp_path / "out"
    one_line(run(source, out, "--to", "hf"), "--template", "vicuna_v1", "llava_v1")
    one_line(run(source, out, "--to", "onnx"), "unknown target 'onnx'", "llavakit")
    one_line(run(source, source, "--to", "hf", "--template", "vicuna_v1"), "overlap")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/precious.txt").write_text("x")
    one_line(run(source, tmp_path / "home", "--to", "original"), "home", "holds no model", "never replaced")
    one_line(run(source, out, "--to", "original", "--base", source), "whole model", "--base")
    one_line(run(source, out, "--to", "original", "--vocabulary", 9), "--vocabulary 9", "tokens")
    one_line(run(source, out, "--to", "original", "--dtype", "int4"), "unknown dtype 'int4'")
    one_line(run(source, out, "--to", "hf", "--vocabulary", 9), "--vocabulary", "--to original")
    (source / "model.safetensors").unlink()
    one_line(run(source, out, "--to", "original"), "holds no weights", "--base")
    torch.save({}, source / "mm_projector.bin")
    one_line(run(source, out, "--to", "original"), "mm_projector.bin", "--base")
    with pytest.raises(UserError, match="name one"):
        checkpoints.load(source)


def test_an_adapter_says_what_it_needs(tmp_path, run):
    original = Original()
    original.save(tmp_path / "base", inside=False)
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original.config(folder)))
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
    }
    words = (folder, tmp_path / "out", "--to", "original")

    def adapter(changes, tensors):
        (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
        save_file(tensors, folder / "adapter_model.safetensors")

    name = "base_model.model.model.layers.0.self_attn.q_proj."
    good = {name + "lora_A.weight": torch.ones(2, 48), name + "lora_B.weight": torch.ones(48, 2)}
    adapter({}, good)
    one_line(run(*words), "LoRA adapter", "lmsys/vicuna-7b-v1.5", "--base")
    with pytest.raises(UserError, match=r"use `llavakit convert` and name .* with --base"):
        checkpoints.load(folder, template_name="vicuna_v1")
    words = (*words, "--base", tmp_path / "base", "--overwrite")
    assert run(*words)[0] == 0
    for setting in (
        {"fan_in_fan_out": True},
        {"use_dora": True},
        {"peft_type": "IA3"},
        {"rank_pattern": {"q": 3}},
    ):
        adapter(setting, good)
        one_line(run(*words), next(iter(setting)), "cannot be merged")
    adapter({"r": None}, good)
    one_line(run(*words), "r=None")
    adapter({"r": 3}, good)
    one_line(run(*words), "rank 3")
    adapter({}, {name + "lora_A.weight": torch.ones(2, 40), name + "lora_B.weight": torch.ones(48, 2)})
    one_line(run(*words), "[48, 40]", "[48, 48]")
    adapter({}, {key.replace("q_proj", "x_proj"): value for key, value in good.items()})
    one_line(run(*words), "x_proj", "the base model does not have")
    adapter({}, {name + "lora_embedding_A": torch.ones(2, 2)})
    one_line(run(*words), "lora_embedding_A")


def test_a_delta_of_another_model_is_refused(tmp_path):
    Original().save(tmp_path / "delta", inside=False)
    (tmp_path / "base").mkdir()
    save_file({"model.norm.weight": torch.ones(40)}, tmp_path / "base" / "model.safetensors")
    options = Options(sources=Sources(delta_base=tmp_path / "base"))
    with pytest.raises(UserError, match=r"norm.weight is \[40\] there, \[48\] in the delta"):
        convert(tmp_path / "delta", tmp_path / "out", "original", options)


def test_a_slow_tokenizer_without_its_packages_is_one_line(tmp_path, run, monkeypatch):
    Original().save(tmp_path / "original")
    (tmp_path / "original" / "tokenizer.json").rename(tmp_path / "original" / "tokenizer.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    result = run(tmp_path / "original", tmp_path / "out", "--to", "hf", "--template", "vicuna_v1")
    one_line(result, "slow tokenizer", "pip install sentencepiece protobuf")


def test_a_target_that_has_no_class_for_the_model_says_so(tmp_path, run):
    mine = tiny.checkpoint()
    standardize = mine.card.connector.model_copy(update={"standardize": True})
    mine.card = mine.card.model_copy(update={"connector": standardize})
    mine.model.connector = build_connector(standardize, 32, 48)
    checkpoints.save(mine, tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    vision = tiny.vision_config()
    config["vision_config"] = vision.to_diff_dict() | {"model_type": vision.model_type}
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    one_line(run(tmp_path / "ours", tmp_path / "out", "--to", "hf"), "no class of transformers")
    one_line(run(tmp_path / "ours", tmp_path / "out", "--to", "original"), "connector.standardize")
    assert run(tmp_path / "ours", tmp_path / "out", "--to", "llavakit", "--dtype", "float16")[0] == 0


def test_files_of_the_format_before_pytorch_1_6_are_read_whole(tmp_path):
    tensors = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = open_weights(tmp_path)
    assert all(
        torch.equal(found[key].read(), value) and found[key].shape == value.shape
        for key, value in tensors.items()
    )
