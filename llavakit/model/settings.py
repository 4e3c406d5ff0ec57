"""Settings of models: their parts, where they come from, and the adapters that are trained on top.

They are apart from the modules that they describe, which need PyTorch: to list, plan and check takes no second.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llavakit.core.config import Config
from llavakit.vision.frames import VideoConfig
from llavakit.vision.plan import ImageConfig


class TowerConfig(Config):
    """Which tower, and which of its features become rows."""

    kind: Literal["transformers", "efficientnet_lite0"] = "transformers"
    path: str = "openai/clip-vit-large-patch14-336"  # directory or hub id; unused by efficientnet_lite0
    layer: int = -2  # ViT: index into its hidden states; -2 is the output of the last layer but one
    # EfficientNet: maps after these of its 16 blocks, pooled to one grid and stacked
    blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=15)], ...], Field(min_length=1)] = (4, 10, 15)


class ConnectorConfig(Config):
    """`linear` is LLaVA's single matrix; `mlp` is LLaVA-1.5's two layers with an exact (erf) GELU between."""

    kind: Literal["linear", "mlp"] = "mlp"
    standardize: bool = False  # bring every channel of the tower to mean 0 and variance 1 first
    match_embeddings: bool = False  # start with outputs as large as token embeddings


class LoraSettings(Config):
    """Defaults are those of the released LLaVA-1.5 LoRA script. Biases are never trained."""

    r: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ()  # names of the decoder's linear layers, as q_proj; default: all of them
    tower: bool = False  # adapters in the vision tower too
    four_bit: bool = False  # QLoRA: the decoder's own weights in four bits (nf4), while training only

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the model that have adapters."""
        return ("language", "tower") if self.tower else ("language",)


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
    image_depth: int | None = Field(
        default=None, ge=8, le=32
    )  # image.depth, also where the start has the image
    video: VideoConfig | None = None
    template: str | None = None
    im_start_end: bool | None = None
    rope_factor: float | None = Field(default=None, ge=1)  # positions divided by it: see rope.py
    lora: LoraSettings | None = None  # train adapters on top of `start` instead of its own weights
