"""How many parameters a released model has, by arithmetic from its dimensions: to list all models takes no second.

Tests hold it against the real modules.
"""

from typing import NamedTuple

from llavakit.model.families.parts import Decoder
from llavakit.model.families.row import Family
from llavakit.model.formats.towers import Vision
from llavakit.model.settings import ConnectorConfig


class Counts(NamedTuple):
    """Parameters. `vision` is the whole tower of a released checkpoint, also the layers behind the features.

    The rows between image tokens (newline, faster token) count as `language`: released training gave them its rate.
    """

    vision: int
    connector: int
    language: int

    @property
    def total(self) -> int:
        return sum(self)


def count_parameters(family: Family) -> Counts:
    """The counts of a row, with the decoder's own vocabulary; a checkpoint may have some rows more."""
    width = family.decoder.hidden_size
    return Counts(
        vision=count_vision(family.vision),
        connector=count_connector(family.card.connector, family.vision.hidden_size, width),
        language=count_language(family.decoder) + len(family.card.separators) * width,
    )


def count_vision(vision: Vision) -> int:
    """A CLIP tower has a class row and a norm before its layers; SigLIP a bias on its patches, perhaps a head."""
    width, inner = vision.hidden_size, vision.intermediate_size
    patches = (vision.image_size // vision.patch_size) ** 2
    attention = 4 * (width + 1) * width
    mlp = (width + 1) * inner + (inner + 1) * width
    norm = 2 * width
    layers = vision.num_hidden_layers * (attention + mlp + 2 * norm)
    whole = 3 * vision.patch_size**2 * width + patches * width + layers + norm
    if vision.model_type == "clip_vision_model":
        return whole + 2 * width + norm  # the class row and its place
    return whole + width + (width + attention + norm + mlp if vision.head else 0)


def count_connector(config: ConnectorConfig, width_in: int, width_out: int) -> int:
    """One linear map, or two."""
    second = (width_out + 1) * width_out if config.kind == "mlp" else 0
    return (width_in + 1) * width_out + second


def count_language(decoder: Decoder) -> int:
    """Llama, Mistral, and Qwen2, which has biases on queries, keys and values."""
    width, inner = decoder.hidden_size, decoder.intermediate_size
    keys = width // decoder.num_attention_heads * decoder.num_key_value_heads
    biases = width + 2 * keys if decoder.model_type == "qwen2" else 0
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width + biases
    tables = decoder.vocab_size * width * (1 if decoder.tie_word_embeddings else 2)
    return decoder.num_hidden_layers * layer + tables + width
