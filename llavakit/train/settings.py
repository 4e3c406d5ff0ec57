"""Settings of training: the optimizer, and who else takes part in a run. Apart from what needs PyTorch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llavakit.core.config import Config
from llavakit.data.settings import DataConfig
from llavakit.train.guard import OnSpike

Decay = Annotated[float, Field(ge=0, lt=1)]
MomentFormat = Literal["float32", "bf16", "int8"]
Rate = Annotated[float, Field(ge=0, le=1)]


class LearningRates(Config):
    """Peak learning rate of each part that is trained; one number is that of all parts."""

    tower: Rate = 2e-6
    connector: Rate = 2e-5
    language: Rate = 2e-5
    newline: Rate = 2e-5  # released code trains it with the language model
    score: Rate = 2e-5  # the head of a reward model

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, int | float | str) else value


class OptimConfig(Config):
    """Defaults are the released LLaVA-1.5 stage-2 settings."""

    lr: LearningRates = Field(default_factory=LearningRates)
    rows: int = Field(1, ge=1)  # packed rows per step: gradient accumulation, exact for any split
    steps: int | None = Field(None, ge=1)  # default: as many as `epochs` gives
    epochs: float = Field(1.0, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)  # fraction of the steps
    decay: Literal["cosine", "linear"] = "cosine"  # how the rate falls after the warm-up
    final: float = Field(0.0, ge=0, le=1)  # it ends at this fraction of the peak
    cycles: int = Field(1, ge=1)  # how often warm-up and fall are gone through; 3 for three rounds of answers
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    moments: MomentFormat = "float32"  # AdamW's two a weight; small ones are rounded at random
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)  # gradient norm; 0 turns clipping off
    on_spike: OnSpike = "log"  # skip: leave a step out whose loss or gradient stands far out
    ema: float | None = Field(None, gt=0, lt=1)  # decay of a running average of the weights, as 0.999


class EvalConfig(Config):
    """Held-out data, off without `files`. Packed, encoded and weighted as `data` is."""

    files: tuple[Path, ...] = ()
    images: Path | None = None  # folder of relative image paths; default: each file's own folder
    every: int = Field(500, ge=1)  # steps; the last step is always evaluated
    rows: int | None = Field(None, ge=1)  # at most so many packed rows, the first ones; default: all

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value

    def data(self, data: DataConfig) -> DataConfig:
        """How the held-out files are read: as the training data, but in their own order."""
        return data.model_copy(update={"files": self.files, "images": self.images, "shuffle": False})


class ProbeConfig(Config):
    """Questions to be asked again and again; off without a file."""

    file: Path | None = (
        None  # LLaVA records; the first question of each is asked, its answer is the reference
    )
    images: Path | None = None  # folder of relative image paths; default: the file's own folder
    every: int = Field(500, ge=1)  # steps; the last step always counts
    count: int = Field(8, ge=1)  # records, the first ones
    max_tokens: int = Field(128, ge=1)


class RetentionConfig(Config):
    """Held-out questions with short answers, asked before the first step and after the last; off without files."""

    files: tuple[Path, ...] = ()
    images: Path | None = None  # folder of relative image paths; default: each file's own folder
    count: int | None = Field(None, ge=1)  # questions, the first ones; default: all
    every: int = Field(0, ge=0)  # steps at which they are asked too; 0: none
    max_tokens: int = Field(32, ge=1)

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value


class ParallelConfig(Config):
    """How ranks share the work. Used when `torchrun` starts several; one process ignores it."""

    mode: Literal["auto", "ddp", "fsdp"] = "auto"  # ddp: a whole model on every rank; fsdp: a share of it
    reshard: bool = True  # fsdp: give a block's weights back after its forward pass, gather them again later
    offload: bool = (
        False  # fsdp: shards, their gradients and moments lie in the host's memory; steps are slower
    )
    replicas: int = Field(1, ge=1)  # fsdp: copies of the sharded model, e.g. one per machine
    timeout: int = Field(60, ge=1)  # minutes a rank waits for another (a save, a feature cache being filled)


class WatchConfig(Config):
    """What a run writes for onlookers beside metrics.jsonl and curves.png, which it always writes."""

    tensorboard: bool = False
