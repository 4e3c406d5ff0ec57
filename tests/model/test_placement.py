"""The decoder on a map of devices or quantized; tower and connector as they were."""

import pytest
import torch
from bitsandbytes import nn as bnb
from torch import nn
from transformers import BitsAndBytesConfig

import llavakit
from llavakit.core.errors import CheckpointError, ConfigError
from llavakit.engine.engine import Engine
from llavakit.engine.sampler import Sampling
from llavakit.model import checkpoint as checkpoints
from llavakit.model import placement
from tests import hf_tiny

FOUR = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
EIGHT = BitsAndBytesConfig(load_in_8bit=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed") / "model"
    hf_tiny.directory("llava_onevision", folder, width=64)  # quantization works in blocks of 64
    return folder


def load(folder, **how):
    return checkpoints.load(folder, template_name="chatml", **how)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_changes_no_answer(folder, device_map):
    plain, placed = load(folder), load(folder, device_map=device_map)
    assert placed.card == plain.card
    mine = plain.model.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in placed.model.state_dict().items())
    sample = hf_tiny.question(plain, "What color?", images=2)
    ours, theirs = (hf_tiny.our_logits(ck, [sample]) for ck in (placed, plain))
    assert torch.equal(ours[0], theirs[0])
    with torch.no_grad():
        assert Engine(placed.model, frozenset()).generate([sample], Sampling(max_tokens=6)) == Engine(
            plain.model, frozenset()
        ).generate([sample], Sampling(max_tokens=6))


def test_the_type_of_all_parts_is_the_one_asked_for(folder):
    placed = load(folder, device_map="cpu", dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in placed.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("quantization", "kind", "close"), [(FOUR, bnb.Linear4bit, 0.5), (EIGHT, bnb.Linear8bitLt, 0.1)]
)
def test_only_the_decoders_layers_are_quantized(folder, quantization, kind, close):
    plain, placed = load(folder), load(folder, quantization=quantization, device_map="cpu")
    shrunk = {name for name, module in placed.model.named_modules() if isinstance(module, kind)}
    decoder = plain.model.language.model.layers
    layers = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    assert shrunk == {f"language.model.layers.{name}" for name in layers} and len(shrunk) == 14
    for part in ("tower", "connector", "newline"):
        mine = plain.model.part(part).state_dict()
        assert all(
            torch.equal(tensor, mine[key]) for key, tensor in placed.model.part(part).state_dict().items()
        )
    sample = hf_tiny.question(plain, "What color?", images=1)
    (ours,), (theirs,) = (hf_tiny.our_logits(ck, [sample]) for ck in (placed, plain))
    assert 0 < (ours - theirs).pow(2).mean().sqrt() < close * theirs.pow(2).mean().sqrt()


def test_a_quantized_model_talks_but_is_not_saved(folder, tmp_path):
    bot = llavakit.load(folder, template_name="chatml", quantization=EIGHT)
    answer = bot.ask("What color?", images=hf_tiny.pictures(1), sampling=Sampling(max_tokens=5))
    assert isinstance(answer, str)
    ck = load(folder, quantization=EIGHT, device_map="cpu")
    with pytest.raises(CheckpointError, match="quantized decoder cannot be written"):
        checkpoints.save(ck, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_weights_that_do_not_fit_are_named_here_too(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"no weights \(model\*\.safetensors"):
        load(tmp_path, device_map="cpu")


def test_without_accelerate_one_line_says_so(folder, monkeypatch):
    monkeypatch.setattr(placement, "is_accelerate_available", lambda: False)
    with pytest.raises(ConfigError, match="pip install accelerate"):
        load(folder, device_map="cpu")
