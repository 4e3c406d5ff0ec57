"""Settings of data: what is read and how it is packed. Apart from the loader, which needs PyTorch."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from llavakit.core.config import Config
from llavakit.text.template import Weights


class DataConfig(Config):
    """What is read and how it is packed."""

    files: tuple[Path, ...] = ()  # data files of any kind, and mixture lists (.yaml); see docs/data.md
    images: Path | None = None  # folder of relative image paths; default: each file's own folder
    tokens: int = Field(4096, ge=1)  # budget of a packed row
    turns: Literal["chained", "independent"] = "chained"  # independent: questions do not see each other
    weights: Weights = "ours"  # compat: learn what the released training code learned
    media_front: float = Field(0.0, ge=0, le=1)  # share of records whose media move to the front (Interleave)
    on_bad: Literal["stop", "skip"] = "stop"
    edited: Literal["stop", "accept"] = "stop"  # accept: resume though records were edited in their places
    unread: tuple[str, ...] = ()  # what looks like media or weights and is passed over on purpose
    shuffle: bool = True
    modality: Literal["mixed", "homogeneous"] = (
        "mixed"  # homogeneous: a row is all text, all images or all videos
    )
    workers: int = Field(
        1, ge=0
    )  # threads that read ahead; 0: read when needed. The order is always the same
    window: int = Field(256, ge=1)  # records packed together; larger packs tighter and holds more text
    # Where the lengths of records are noted, so that ranks pack without reading. Default: `lengths` in the folder
    # of a run of several ranks; one rank needs none.
    lengths: Path | None = None
    features: Path | None = None  # folder of cached tower features; only for a frozen tower

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value
