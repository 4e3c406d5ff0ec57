"""Every released model as a row of data. Recipes start from a row; nothing branches on its name."""

from dataclasses import dataclass
from pathlib import Path

from llavakit.core.errors import pick
from llavakit.model.build import LanguageConfig, ModelConfig
from llavakit.model.card import Card
from llavakit.model.connector import ConnectorConfig
from llavakit.model.tower import TowerConfig
from llavakit.vision.plan import ImageConfig

CLIP_224 = "openai/clip-vit-large-patch14"
CLIP_336 = "openai/clip-vit-large-patch14-336"


@dataclass(frozen=True)
class Family:
    """One released model. Widths of parts are read from the parts themselves."""

    name: str
    system: str  # the publication it belongs to
    card: Card  # as in use, after the last stage
    language: LanguageConfig
    context: int  # tokens the release was trained with

    @property
    def num_image_tokens(self) -> int:
        return self.card.image.grid**2

    def model(self, *, start: Path | None = None, **changes: object) -> ModelConfig:
        """The settings of a run that makes this model; `changes` replace parts of the card."""
        card = self.card.model_copy(update=changes)
        return ModelConfig(start=start, language=self.language, **dict(card))


def _llava(name: str, language: str) -> Family:
    return Family(
        name=name,
        system="LLaVA",
        language=LanguageConfig(path=language),
        card=Card(
            tower=TowerConfig(path=CLIP_224),
            connector=ConnectorConfig(kind="linear"),
            image=ImageConfig(kind="square", size=224, grid=16),
            template="llava_v1",
        ),
        context=2048,
    )


def _llava15(name: str, language: str) -> Family:
    return Family(
        name=name,
        system="LLaVA-1.5",
        language=LanguageConfig(path=language),
        card=Card(
            tower=TowerConfig(path=CLIP_336),
            connector=ConnectorConfig(kind="mlp"),
            image=ImageConfig(kind="pad", size=336, grid=24),
            template="vicuna_v1",
        ),
        context=2048,
    )


_ROWS = [
    _llava("llava-7b", "lmsys/vicuna-7b-v1.3"),
    _llava("llava-13b", "lmsys/vicuna-13b-v1.3"),
    _llava15("llava15-7b", "lmsys/vicuna-7b-v1.5"),
    _llava15("llava15-13b", "lmsys/vicuna-13b-v1.5"),
]

FAMILIES = {row.name: row for row in _ROWS}


def family(name: str) -> Family:
    """The row called `name`; an unknown name is an error that lists the near ones."""
    return pick(FAMILIES, name, "model")
