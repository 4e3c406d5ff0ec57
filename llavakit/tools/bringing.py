"""How pictures come in where a caller does not begin with some: sent as base64 once, or named in a folder."""

import base64
import binascii
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from llavakit.core.errors import DataError
from llavakit.text.calls import Card, Json, ToolError
from llavakit.tools.arguments import Answer, Drawn
from llavakit.tools.desk import Desk
from llavakit.tools.function import FunctionTool
from llavakit.tools.registry import Made
from llavakit.vision.image import load_image

MOST_BYTES = 48 * 2**20  # of a file


def put_image(
    data: Annotated[
        str, Field(max_length=MOST_BYTES * 4 // 3 + 4, description="The file's bytes as base64.")
    ],
) -> Answer:
    """Bring a picture (PNG, JPEG, WebP, GIF, BMP, TIFF) once; its id stands for it in all other calls."""
    try:
        raw = base64.b64decode(data.partition("base64,")[2] or data, validate=True)
    except (binascii.Error, ValueError):
        raise ToolError("data is not base64") from None
    try:
        pixels = np.asarray(load_image(raw))
    except DataError as error:
        raise ToolError(str(error)) from None
    return Answer({"size": [pixels.shape[1], pixels.shape[0]]}, (Drawn(pixels),))


class OpenImage:
    """A tool that takes pictures out of one folder, for callers that cannot send them."""

    def __init__(self, folder: Path, put: FunctionTool) -> None:
        self.folder, self._put = folder.resolve(), put
        self.card = Card(
            "open_image",
            "Open a picture of the folder that this server shows; its id stands for it in all other calls.",
            {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "The file, relative to the folder."}
                },
                "required": ["path"],
                "additionalProperties": False,
            },
        )

    def run(self, arguments: Json, desk: Desk, *, seconds: float) -> Made:
        """Read the file. ToolError for one that is not there, too large, or outside of the folder."""
        match arguments:
            case {"path": str(path), **rest} if not rest:
                data = self._read(path)
                return self._put.run({"data": base64.b64encode(data).decode()}, desk, seconds=seconds)
        raise ToolError("it takes one argument: path, a text")

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, path: str) -> bytes:
        try:
            file = (self.folder / path).resolve()
            # Links are followed first, so one that leads out of the folder is outside of it.
            if not file.is_relative_to(self.folder) or not file.is_file():
                names = sorted(one.name for one in self.folder.iterdir() if one.is_file())[:20]
                raise ToolError(
                    f"there is no file {path[:80]!r} in the folder; there are: {', '.join(names)}"
                )
            if file.stat().st_size > MOST_BYTES:
                raise ToolError(f"{path} has {file.stat().st_size} bytes; {MOST_BYTES} are taken")
            return file.read_bytes()
        except (OSError, ValueError) as error:
            raise ToolError(f"{path[:80]!r} cannot be read: {error}") from None
