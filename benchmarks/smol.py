"""The model of the serving benchmarks: SmolLM2-135M behind a small CLIP tower, 196 rows an image; its requests.

The language model's weights are the real ones (the demo's); tower and connector are random. So answers mean
nothing, but every side is given the same directory.
"""

import io

import numpy as np
import PIL.Image
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from llavakit.data.encode import Encoder, Sample
from llavakit.model.build import load_language
from llavakit.model.card import Card
from llavakit.model.checkpoint import Checkpoint
from llavakit.model.connector import build_connector
from llavakit.model.llava import Llava, Newline
from llavakit.model.settings import ConnectorConfig, LanguageConfig, TowerConfig
from llavakit.model.tower import ViTTower
from llavakit.recipes.demo import smollm2_file
from llavakit.text.conversation import Conversation, user
from llavakit.vision.plan import ImageConfig

IMAGE = ImageConfig(kind="square", size=224, grid=14)
# About 60 tokens, so that a prompt has about 270 with its image.
QUESTION = (
    "Look at this picture carefully. Describe the most important objects in it, where they are, which colors they "
    "have, and how they are related to each other; then say in one more sentence what might happen next. Number {}."
)
NEW_TOKENS = 64


def build_model(dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    """SmolLM2-135M-Instruct and a random CLIP of 6 layers, width 384, 14 x 14 patches."""
    torch.manual_seed(0)
    settings = LanguageConfig(path="SmolLM2-135M-Instruct", gguf=smollm2_file())
    language, tokenizer = load_language(settings, ())
    vision = CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=224,
        patch_size=16,
    )
    card = Card(tower=TowerConfig(path="small"), image=IMAGE, template="chatml")
    tower = ViTTower(CLIPVisionModel(vision), card.tower, IMAGE)
    width = language.config.hidden_size
    model = Llava(tower, build_connector(ConnectorConfig(), 384, width), language, Newline((), width))
    return Checkpoint(model.to(dtype).eval(), tokenizer, card)


def picture(number: int) -> bytes:
    """A PNG of 224 x 224 random pixels: no two numbers share one, so no cache can answer."""
    pixels = np.random.default_rng(number).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def encoder(loaded: Checkpoint) -> Encoder:
    return Encoder(loaded.tokenizer, loaded.card.prompt(), loaded.card.image)


def request(loaded: Checkpoint, number: int, seen: bytes) -> Sample:
    """An open question about one picture; all questions are equally long."""
    asked = user(QUESTION.format(number % 10), [seen])
    return encoder(loaded).encode(Conversation((asked,)), open_turn=True)


def prompt(loaded: Checkpoint, number: int) -> str:
    """The same question as the text that other programs take, with one `<image>`."""
    row = loaded.card.prompt()
    before, after = row.user
    return f"{before}<image>\n{QUESTION.format(number % 10)}{after}{row.header}"
