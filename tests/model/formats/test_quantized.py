"""Directories that were stored quantized: answered from where transformers can, one line where not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from llavakit.core.errors import UserError
from llavakit.model import checkpoint as checkpoints
from llavakit.model.build import build
from llavakit.model.convert.convert import Options, convert
from llavakit.model.formats.quantized import for_decoder
from llavakit.model.settings import ModelConfig
from tests import hf_tiny

PLAIN_PARTS = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
SCHEMES = {
    "4 bits": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "8 bits": {"load_in_8bit": True},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "model"
    hf_tiny.directory("llava", folder, width=64)
    return folder


def quantize(plain, folder, scheme, parts=PLAIN_PARTS):
    """As `transformers` saves a quantized model, with the other files beside it; `parts` stay as they are."""
    how = BitsAndBytesConfig(**SCHEMES[scheme], llm_int8_skip_modules=parts)
    hf = hf_tiny.MODELS["llava"].from_pretrained(plain, quantization_config=how, device_map="cpu")
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    hf.save_pretrained(folder)
    return hf.eval()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_bitsandbytes_stored_answers_as_in_transformers(plain, tmp_path, scheme):
    hf = quantize(plain, tmp_path / "small", scheme)
    ck = checkpoints.load(tmp_path / "small", template_name="chatml")
    samples = [hf_tiny.question(ck, "What color?", images=1)]
    ours, theirs = hf_tiny.our_logits(ck, samples), hf_tiny.their_logits(hf, ck, samples)
    scale = float(theirs[0].abs().max())
    assert hf_tiny.difference(ours, theirs) <= 0.02 * scale
    for refused in (
        lambda: convert(tmp_path / "small", tmp_path / "out", "hf", Options(template="chatml")),
        lambda: build(ModelConfig(start=tmp_path / "small", template="chatml")),
        lambda: checkpoints.load(
            tmp_path / "small", template_name="chatml", quantization=BitsAndBytesConfig(load_in_8bit=True)
        ),
        lambda: checkpoints.save(ck, tmp_path / "out"),
    ):
        with pytest.raises(UserError, match="quantized") as error:
            refused()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("place", ["config", "text_config"])
def test_a_scheme_without_its_package_is_one_line(plain, tmp_path, run, method, place):
    folder = tmp_path / "small"
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    scheme = {"quant_method": method, "bits": 4, "group_size": 128, "zero_point": True}
    (config if place == "config" else config["text_config"])["quantization_config"] = scheme
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("q_proj.weight"))
    tensors[name.replace("weight", "qweight")] = tensors.pop(name).to(torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run("chat", "--model", folder, "--template", "chatml", "Hello?")
    assert code == 2 and f"quantized by {method}, which cannot be used here" in err.splitlines()[-1], err
    assert "Traceback" not in err


def test_a_tower_that_is_quantized_and_an_unknown_scheme_are_named(plain, tmp_path):
    quantize(plain, tmp_path / "small", "4 bits", parts=["lm_head"])
    with pytest.raises(UserError, match="tower or projector are quantized too"):
        checkpoints.load(tmp_path / "small", template_name="chatml")
    shutil.copytree(plain, tmp_path / "odd")
    config = json.loads((plain / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "odd"}
    }
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantized by odd, which transformers does not know"):
        checkpoints.load(tmp_path / "odd", template_name="chatml")


def test_names_of_plain_modules_begin_at_the_decoder():
    names = [
        "model.language_model.layers.0",
        "language_model.model.layers.1",
        "language_model.lm_head",
        "lm_head",
    ]
    found = for_decoder({"modules_to_not_convert": names, "bits": 4})
    assert found == {
        "modules_to_not_convert": ["model.layers.0", "model.layers.1", "lm_head", "lm_head"],
        "bits": 4,
    }
