"""Tiny real parts for tests: three kinds of tokenizer, a CLIP tower, a Llama decoder, pictures, records."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from llavakit.data.encode import Encoder, Sample
from llavakit.model.card import Card
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava, Score
from llavakit.model.settings import ConnectorConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.text.conversation import Conversation, user
from llavakit.text.grading import Grading
from llavakit.text.templates import template
from llavakit.text.tokenizer import Tokenizer
from llavakit.vision.plan import ImageConfig

CORPUS = [
    "What color is the shape? It is a red circle.",
    "user assistant system human USER: ASSISTANT: the image shows a blue rectangle and a green triangle",
    "A chat between a curious user and an artificial intelligence assistant.",
    "Describe the picture in detail, please. yes no one two three. naïve café 東京 🙂",
] * 4
IMAGE = ImageConfig(kind="pad", size=28, grid=2)
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA3_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def byte_level_tokenizer() -> Tokenizer:
    """Like GPT-2, Qwen and SmolLM: byte-level BPE, ChatML markers, no BOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = _byte_level(special)
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return Tokenizer(hf)


def sentencepiece_tokenizer() -> Tokenizer:
    """Like Llama 2 and Vicuna: blanks become ▁, a prefix space at every start, bytes as a fallback, BOS."""
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [word for line in CORPUS for word in line.replace(" ", " ▁").split(" ")]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special + fallback, show_progress=False)
    plain = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.train_from_iterator(words, trainer)
    backend.model = plain.model
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return Tokenizer(hf)


def chat_template_tokenizer() -> Tokenizer:
    """Like Llama 3: byte-level BPE, header markers, a BOS, and a chat template of its own."""
    backend = _byte_level(LLAMA3)
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=LLAMA3[0], eos_token=LLAMA3[3])
    hf.chat_template = LLAMA3_CHAT
    return Tokenizer(hf)


def gemma_tokenizer() -> Tokenizer:
    """Byte-level letters with Gemma's markers, a BOS and an EOS that no template writes."""
    special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    return Tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=_byte_level(special), bos_token="<bos>", eos_token="<eos>")
    )


def _byte_level(special: list[str]) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


TOKENIZERS = {
    "chatml": byte_level_tokenizer,
    "vicuna_v1": sentencepiece_tokenizer,
    "llava_llama_3": chat_template_tokenizer,
}


def encoder(name: str = "chatml") -> Encoder:
    """An encoder with the tokenizer kind that goes with this template."""
    return Encoder(TOKENIZERS[name](), template(name), IMAGE)


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    )


def text_config(vocab: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=None,
    )


def checkpoint(name: str = "chatml", connector: str = "mlp", seed: int = 0) -> Checkpoint:
    """A random model with everything that belongs to it."""
    torch.manual_seed(seed)
    tokenizer = TOKENIZERS[name]()
    assert tokenizer.image_token_id > 0  # adds <image> to the vocabulary
    tower = ViTTower(CLIPVisionModel(vision_config()), TowerConfig(path="tiny"), IMAGE)
    language = LlamaForCausalLM(text_config(len(tokenizer) + 3))
    with torch.no_grad():  # the default initialisation is so small that a wrong mask would hardly show
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    settings = ConnectorConfig(kind=connector)
    model = Llava(tower, build_connector(settings, tower.width, 48), language).eval()
    return Checkpoint(
        model, tokenizer, Card(tower=TowerConfig(path="tiny"), connector=settings, image=IMAGE, template=name)
    )


def reward_checkpoint(name: str = "chatml", *, seed: int = 0, facts: bool = False) -> Checkpoint:
    """A reward model whose scores differ; with `facts`, one that was taught with them."""
    made = checkpoint(name, seed=seed)
    made.model.score = Score(48)
    with torch.no_grad():
        made.model.score.weight.mul_(50)
    grading = Grading(question="Grade it. {facts}", opening="It is", lead="Known:", facts=facts)
    return replace(made, card=made.card.model_copy(update={"grading": grading}))


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """A random RGB file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def record(number: int, image: str | list[str] | None, turns: list[tuple[str, str]]) -> dict:
    """A LLaVA record; the first question gets the placeholder(s)."""
    images = [image] if isinstance(image, str) else image or []
    talk = []
    for index, (question, answer) in enumerate(turns):
        mark = "<image>\n" * len(images) if index == 0 else ""
        talk += [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "conversations": talk} | ({"image": image} if image else {})


def data_file(folder: Path, count: int = 8) -> Path:
    """A JSON file of `count` records of different lengths, every fourth without an image."""
    colours = ["red", "blue", "green", "yellow"]
    rows = []
    for number in range(count):
        turns = [("What color is the shape?", colours[number % 4])]
        turns += [("Describe the picture.", "It is a shape." * (1 + number % 3))] * (number % 2)
        image = None
        if number % 4 != 3:
            image = picture(folder / f"{number}.png", seed=number, size=(30 + number, 44 - number)).name
        rows.append(record(number, image, turns))
    path = folder / "data.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def prompts(folder: Path, lengths: list[int]) -> list[Sample]:
    """Open questions of about so many tokens, every other one about a picture of its own."""
    dice, asked = np.random.default_rng(0), []
    for number, length in enumerate(lengths):
        pictures = [picture(folder / f"{number}.png", number)] if number % 2 else []
        words = " ".join(dice.choice(CORPUS[0].split(), length // 2))
        asked.append(encoder().encode(Conversation((user(words, pictures),)), open_turn=True))
    return asked
