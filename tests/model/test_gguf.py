"""SmolLM2-135M-Instruct out of its GGUF file: real weights, a real tokenizer, a real answer."""

from pathlib import Path

import pytest
import torch

from llavakit.model.build import load_language
from llavakit.model.settings import LanguageConfig
from llavakit.recipes.demo import smollm2_file


@pytest.mark.slow
def test_a_gguf_file_becomes_an_ordinary_model_that_saves_and_answers(tmp_path):
    language, tokenizer = load_language(LanguageConfig(gguf=smollm2_file()))
    assert len(tokenizer.hf.get_vocab()) == 49153, "<image> joins the vocabulary"
    assert language.get_input_embeddings().num_embeddings == 49216
    table = language.get_input_embeddings().weight
    assert torch.allclose(table[49152:], table[:49152].mean(dim=0).expand(64, -1), atol=1e-6)
    language.save_pretrained(tmp_path)
    again = type(language).from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(language.state_dict().values(), again.state_dict().values(), strict=True)
    )

    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.hf(prompt, return_tensors="pt").input_ids
    out = again.generate(ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids.shape[1] :].tolist())


def test_a_missing_gguf_file_is_one_line():
    from llavakit.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"model.language.gguf=/no/such.gguf: no such file"):
        load_language(LanguageConfig(gguf=Path("/no/such.gguf")))
