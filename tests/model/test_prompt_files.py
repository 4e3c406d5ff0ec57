"""The prompt travels with the weights: a directory's chat template makes our ids, for every template there is."""

import json

import pytest
from transformers import AutoProcessor, AutoTokenizer

from llavakit.core.types import IMAGE_ID
from llavakit.data.encode import Encoder
from llavakit.model import checkpoint as checkpoints
from llavakit.model.checkpoint import write_settings
from llavakit.model.convert.convert import Options, convert
from llavakit.text.conversation import Conversation, assistant, user
from llavakit.text.templates import TEMPLATES, template
from tests import hf_tiny, tiny

ASKED = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    {"role": "user", "content": [{"type": "text", "text": "two\n  lines"}]},
]


@pytest.fixture(scope="module")
def made():
    """A tiny model for every kind of tokenizer."""
    return {name: tiny.checkpoint(name) for name in tiny.TOKENIZERS}


def our_ids(ck, picture):
    encoder = Encoder(ck.tokenizer, ck.card.prompt(), ck.card.image)
    talk = Conversation((user("What color?", [picture]), assistant("red"), user("two\n  lines")))
    return [token for token in encoder.encode(talk, open_turn=True).ids if token != IMAGE_ID]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_auto_processor_makes_our_ids(made, tmp_path, name):
    marks = {"<|im_start|>": "chatml", "<|start_header_id|>": "llava_llama_3"}
    ck = made[next((kind for mark, kind in marks.items() if mark in repr(template(name))), "vicuna_v1")]
    ck.card = ck.card.model_copy(update={"template": name})
    write_settings(ck, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    picture = tiny.picture(tmp_path / "x.png")
    messages = json.loads(json.dumps(ASKED))
    messages[0]["content"][0]["path"] = str(picture)
    found = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    theirs = [token for token in found["input_ids"][0].tolist() if token != ck.tokenizer.image_token_id]
    assert theirs == our_ids(ck, picture)


def test_the_template_of_a_base_model_does_not_come_along(tmp_path):
    """It knows no pictures, and no row of ours: converting, saving and merging write the card's own."""
    hf_tiny.directory("llava", tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0]['content'] }}"
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(tmp_path / "theirs", tmp_path / "hf", "hf", Options(template="chatml"))
    checkpoints.save(checkpoints.load(tmp_path / "hf"), tmp_path / "saved")
    for name in ("hf", "saved"):
        text = AutoTokenizer.from_pretrained(tmp_path / name).apply_chat_template(ASKED, tokenize=False)
        assert text.startswith("<|im_start|>user\n<image>\nWhat color?<|im_end|>"), text
