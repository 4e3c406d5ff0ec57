"""Adapters that others trained on a LLaVA of `transformers`: loaded on their base, or refused with the reason."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.assemble import Sources
from llavakit.model.convert.convert import Options, convert, merge
from llavakit.model.outline import outline
from llavakit.model.settings import ModelConfig
from tests import hf_tiny
from tests.originals import Original

# What defaults of TRL, LLaMA-Factory and unsloth amount to: all layers, the decoder's alone, with whole modules.
TARGETS = {
    "all-linear": {"target_modules": "all-linear"},
    "decoder": {"target_modules": r".*language_model.*(q|v|up)_proj"},
    "whole projector": {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"]},
    "rank-stabilised": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {
        kind: (folder / kind, hf_tiny.directory(kind, folder / kind)) for kind in ("llava", "llava_onevision")
    }


def train(hf, folder, **how):
    """An adapter with random weights, saved as peft does; returns the model with it."""
    wrapped = get_peft_model(hf, LoraConfig(r=4, lora_alpha=8, **how))
    torch.manual_seed(3)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) / 8
    wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.mark.parametrize("spelling", ["new", "before 4.52"])
@pytest.mark.parametrize("kind", ["llava", "llava_onevision"])
@pytest.mark.parametrize("how", TARGETS)
def test_an_adapter_of_peft_on_the_class_is_loaded(bases, tmp_path, how, kind, spelling):
    base, _ = bases[kind]
    hf = hf_tiny.MODELS[kind].from_pretrained(base, dtype=torch.float32)
    theirs = train(hf, tmp_path / "adapter", **TARGETS[how])
    if spelling != "new":
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        old = {
            key.replace("model.model.language_model.", "model.language_model.model.").replace(
                "model.model.", "model."
            ): tensor
            for key, tensor in load_file(file).items()
        }
        save_file(old, file)
    loaded = checkpoints.load(tmp_path / "adapter", template_name="chatml")
    samples = [hf_tiny.question(loaded, "What color?", images=2)]
    ours = hf_tiny.our_logits(loaded, samples)
    wanted = hf_tiny.their_logits(theirs.base_model.model, loaded, samples)
    assert hf_tiny.difference(ours, wanted) <= 1e-3
    plain = hf_tiny.our_logits(checkpoints.load(base, template_name="chatml"), samples)
    assert hf_tiny.difference(ours, plain) > 1e-2


def test_every_verb_takes_such_an_adapter_and_another_base(bases, tmp_path, run):
    base, _ = bases["llava"]
    train(hf_tiny.MODELS["llava"].from_pretrained(base), tmp_path / "adapter", target_modules=["q_proj"])
    convert(tmp_path / "adapter", tmp_path / "hf", "hf", Options(template="chatml"))
    assert (
        outline(ModelConfig(start=tmp_path / "adapter", template="chatml")).language.config.hidden_size == 48
    )
    assert (
        run("chat", "--model", tmp_path / "adapter", "--template", "chatml", "--max-tokens", 1, "Hello?")[0]
        == 0
    )
    shutil.copytree(base, tmp_path / "moved")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "nobody/nothing"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"is a LoRA adapter of nobody/nothing, but .*; use .* --base"):
        checkpoints.load(tmp_path / "adapter", template_name="chatml")
    options = Options(template="chatml", sources=Sources(base=tmp_path / "moved"))
    convert(tmp_path / "adapter", tmp_path / "again", "hf", options)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


REFUSED = {
    "tied head": (
        "llava_onevision",
        {"target_modules": ["lm_head"]},
        "lm_head.weight.* tied to the embeddings",
    ),
    "bias of the pairs": ("llava", {"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias=True"),
    "dora": ("llava", {"target_modules": ["q_proj"], "use_dora": True}, "use_dora=True"),
    "ranks": ("llava", {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}, "rank_pattern"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_named(bases, tmp_path, case):
    kind, how, message = REFUSED[case]
    hf = hf_tiny.MODELS[kind].from_pretrained(bases[kind][0])
    if how.get("lora_bias"):
        for layer in hf.modules():
            if isinstance(layer, torch.nn.Linear) and layer.bias is None:
                layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features))
    train(hf, tmp_path / "adapter", **how)
    with pytest.raises(UserError, match=message):
        checkpoints.load(tmp_path / "adapter", template_name="chatml")


def test_an_adapter_on_the_head_and_biases_beside_it_are_merged(bases, tmp_path):
    hf = hf_tiny.MODELS["llava"].from_pretrained(bases["llava"][0], dtype=torch.float32)
    theirs = train(hf, tmp_path / "adapter", target_modules=["lm_head", "fc1"], bias="lora_only")
    loaded = checkpoints.load(tmp_path / "adapter", template_name="chatml")
    samples = [hf_tiny.question(loaded, "What color?", images=1)]
    wanted = hf_tiny.their_logits(theirs.base_model.model, loaded, samples)
    assert hf_tiny.difference(hf_tiny.our_logits(loaded, samples), wanted) <= 1e-3


def test_merge_takes_one_too(bases, tmp_path, run):
    hf = hf_tiny.MODELS["llava"].from_pretrained(bases["llava"][0])
    train(hf, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"name one .--template"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    words = ("merge", tmp_path / "adapter", tmp_path / "merged", "--template", "chatml")
    assert run(*words)[0] == 0
    loaded = checkpoints.load(tmp_path / "merged").model.state_dict()
    direct = checkpoints.load(tmp_path / "adapter", template_name="chatml").model.state_dict()
    assert loaded.keys() == direct.keys()
    shared = {key: tensor[: len(direct[key])] for key, tensor in loaded.items() if tensor.ndim}
    assert all(torch.equal(tensor, direct[key]) for key, tensor in shared.items())


def test_a_projector_that_did_not_come_along_is_told(tmp_path, capsys):
    """A released LoRA without non_lora_trainables.bin, on a base that has a projector of its own."""
    original = Original()
    original.save(tmp_path / "base")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "config.json").write_text(json.dumps(original.config(tmp_path / "lora")))
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "base_model_name_or_path": str(tmp_path / "base"),
    }
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj."
    pair = {name + "lora_A.weight": torch.ones(2, 48), name + "lora_B.weight": torch.ones(48, 2)}
    save_file(pair, tmp_path / "lora" / "adapter_model.safetensors")
    checkpoints.load(tmp_path / "lora", template_name="vicuna_v1")
    told = " ".join(capsys.readouterr().out.split())
    assert "has no non_lora_trainables.bin: the projector is that of" in told
