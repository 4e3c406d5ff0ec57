"""What the editor's server allows."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from llavakit.core.config import Config
from llavakit.vision.boxes import Unit

MIB = 2**20
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d+)?$", max_length=300)]


class StudioConfig(Config):
    """Limits. Sizes are bytes, times seconds."""

    folder: Path = Path("runs/studio")  # of all pictures, each in a folder of its own
    max_upload_bytes: int = Field(default=64 * MIB, ge=1)
    upload_seconds: float = Field(default=120, gt=0)  # for a whole body
    max_command_bytes: int = Field(default=8 * MIB, ge=1)  # a mask that is loaded is one
    max_pictures: int = Field(default=500, ge=1)  # in the folder; then no other is taken
    max_open: int = Field(default=8, ge=1)  # in memory; the others are read again when somebody comes back
    keep_hours: float = Field(
        default=24 * 14, gt=0
    )  # a picture that nobody has touched for so long is removed
    max_tokens: int = Field(default=512, ge=1)  # of an answer in the chat
    pictures_in_talk: int = Field(
        default=1, ge=1, le=64
    )  # how many states of the picture the model is shown; more than one is for models that know several pictures
    boxes: Unit = "0-1"  # what the numbers of the model's boxes count
    framed_by: tuple[
        Origin, ...
    ] = ()  # pages of others that may show ours inside of them; none may otherwise
    may_propose: bool = False  # the model is told how to propose edits
