"""What a run starts from: a checkpoint, or fresh parts joined by a new connector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, PreTrainedModel

from llavakit.core.config import Config
from llavakit.core.errors import ConfigError
from llavakit.model.adapters import Adapter, LoraSettings, add_adapters
from llavakit.model.card import IMAGE_FRAME, Card, load_card, resolve
from llavakit.model.checkpoint import Checkpoint, load
from llavakit.model.connector import ConnectorConfig, build_connector, match_scale
from llavakit.model.convert.gguf import read_gguf
from llavakit.model.llava import Llava, Newline
from llavakit.model.tower import TowerConfig, load_tower
from llavakit.text.templates import template
from llavakit.text.tokenizer import IMAGE_TOKEN, Tokenizer
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig


class LanguageConfig(Config):
    """The decoder: any causal language model of `transformers`, by directory or hub id, or a GGUF file."""

    path: str = "lmsys/vicuna-7b-v1.5"
    gguf: Path | None = None


class ModelConfig(Config):
    """Where a run's model comes from: `start` (a checkpoint), or fresh parts joined by a new connector.

    What is left out is taken from `start`, else from Card's defaults. Template and image rule may differ from
    the start's (stages do); tower and connector may not.
    """

    start: Path | None = None
    language: LanguageConfig = Field(default_factory=LanguageConfig)
    tower: TowerConfig | None = None
    connector: ConnectorConfig | None = None
    image: ImageConfig | None = None
    video: VideoConfig | None = None
    template: str | None = None
    im_start_end: bool | None = None
    lora: LoraSettings | None = None  # train adapters on top of `start` instead of its own weights

    def card(self) -> Card:
        """The complete card; reads the start's config.json where something is left out."""
        chosen = {
            "tower": self.tower, "connector": self.connector, "image": self.image,
            "video": self.video, "template": self.template, "im_start_end": self.im_start_end,
        }  # fmt: skip
        given = {name: value for name, value in chosen.items() if value is not None}
        if len(given) == len(chosen) or self.start is None:
            return Card(**given)
        return load_card(self.start).model_copy(update=given)


def build(config: ModelConfig) -> Checkpoint:
    """The model a run starts from. The connector's initialisation uses PyTorch's global seed."""
    card = config.card()
    template(card.template)  # an unknown name should fail before gigabytes are read
    if config.start is not None:
        lora = config.lora
        started = load(config.start, four_bit=lora is not None and lora.four_bit)
        check_parts(card, started.card, config.start)
        return Checkpoint(started.model, started.tokenizer, card, _adapter(config, started))
    if config.lora is not None:
        raise ConfigError(
            "model.lora needs model.start: adapters are kept apart from the checkpoint they belong to"
        )
    language, tokenizer = load_language(config.language, IMAGE_FRAME if card.im_start_end else ())
    tower = load_tower(card.tower, card.image)
    connector = build_connector(card.connector, tower.width, language.config.hidden_size)
    if card.connector.match_embeddings:
        match_scale(connector, float(_tables(language)[0].weight.detach().std()), tower.width)
    newline = Newline(card.marks, language.config.hidden_size)
    return Checkpoint(Llava(tower, connector, language, newline), tokenizer, card)


def check_parts(card: Card, started: Card, start: Path) -> None:
    """Tower and connector must be those of the start; template and media rules may change."""
    for name in ("tower", "connector"):
        mine, theirs = card.model_dump()[name], started.model_dump()[name]
        if mine != theirs:
            raise ConfigError(f"model.{name} is {mine}, but {start} has {theirs}")


def _adapter(config: ModelConfig, started: Checkpoint) -> Adapter | None:
    """The adapters that the run trains: those of its start, or fresh ones, which are put in place here."""
    lora, before = config.lora, started.adapter
    if before is None:
        if lora is None:
            return None
        assert config.start is not None
        add_adapters(started.model, lora)
        return Adapter(lora, resolve(config.start))
    if lora is None:
        raise ConfigError(
            f"{config.start} holds adapters: give model.lora with the same settings to train them further, "
            "or make it an ordinary checkpoint with `llavakit merge`"
        )
    mine, theirs = lora.model_dump(), before.lora.model_dump()
    changed = [f"{name}={theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
    if changed:
        raise ConfigError(
            f"{config.start} holds adapters with model.lora: {', '.join(changed)}; give the same"
        )
    return before


def load_language(config: LanguageConfig, special: Sequence[str] = ()) -> tuple[PreTrainedModel, Tokenizer]:
    """Decoder and tokenizer, with `<image>` in the vocabulary (other programs need an id for image slots).

    New rows of the embedding tables, for it and for further `special` tokens, are the mean of the old ones.
    """
    if config.gguf is not None:
        if not config.gguf.is_file():
            raise ConfigError(f"model.language.gguf={config.gguf}: no such file")
        language: PreTrainedModel = read_gguf(config.gguf)
        tokenizer = Tokenizer.load(config.gguf.parent, gguf_file=config.gguf.name)
    else:
        try:
            language = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.language.path={config.path!r}: {str(error).splitlines()[0]}") from None
        tokenizer = Tokenizer.load(config.path)
    make_room(language, tokenizer, special)
    return language, tokenizer


def make_room(language: PreTrainedModel, tokenizer: Tokenizer, special: Sequence[str]) -> None:
    """Put `<image>` and the `special` tokens into the vocabulary, and rows for them into the decoder's tables."""
    old = len(_tables(language)[0].weight)
    tokenizer.add_special([IMAGE_TOKEN, *special])
    if len(tokenizer) > old:
        language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        with torch.no_grad():
            for table in _tables(language):
                table.weight[old:] = table.weight[:old].mean(dim=0)


def _tables(language: PreTrainedModel) -> list[Any]:
    """Input and output embeddings: one and the same module's weight where they are tied."""
    return [language.get_input_embeddings(), language.get_output_embeddings()]
