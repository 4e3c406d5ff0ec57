"""Places on a picture that a person marks: boxes as text, and sketches, whose painted pixels become a box.

LLaVA-Plus tells the model of a sketch in the words used here (`Input box: [...]`), the box in parts of the picture.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from llavakit.core.errors import ConfigError
from llavakit.tools.desk import Desk
from llavakit.vision.boxes import Box, make_box
from llavakit.vision.image import BROKEN

FIRST = "img_1"  # the picture that is meant where none is named
BOX = re.compile(r"\s*(?:(img_\d+):)?\s*([^:]+)")
DIGITS = {"px": 0, "input": 0, "0-1": 2, "0-1000": 0}


def read_box(text: str, desk: Desk) -> Box:
    """`left,top,right,bottom` in pixels of the first picture, or `img_2:left,...` of another.

    ConfigError for anything else.
    """
    found = BOX.fullmatch(text)
    try:
        numbers = [float(number) for number in found[2].split(",")] if found else []
    except ValueError:
        numbers = []
    if found is None or len(numbers) != 4:
        raise ConfigError(f"--box {text!r}: write left,top,right,bottom in pixels")
    box = make_box(found[1] or FIRST, "px", numbers)
    box.pixels(desk.frame(box.picture))  # DataError where none of it lies in the picture
    return box


def read_sketch(path: Path, desk: Desk) -> Box:
    """The box around what is painted: what is not transparent, or not black where nothing is transparent.

    A sketch of another size than the first picture is stretched over it.
    """
    try:
        with PIL.Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGBA"))
    except BROKEN as error:
        raise ConfigError(f"--sketch {path}: cannot be read: {error}") from None
    alpha_HW = pixels[..., 3]
    painted_HW = alpha_HW > 0 if alpha_HW.min() == 0 else pixels[..., :3].max(axis=2) > 0
    rows, columns = np.flatnonzero(painted_HW.any(axis=1)), np.flatnonzero(painted_HW.any(axis=0))
    if not len(rows):
        raise ConfigError(f"--sketch {path}: nothing is painted on it")
    height, width = painted_HW.shape
    corners = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    return make_box(FIRST, "0-1", corners).to("px", desk.frame(FIRST))


def told_places(boxes: Sequence[Box], desk: Desk) -> list[str]:
    """A line for each box, in the unit that the model writes."""
    lines = []
    for box in boxes:
        numbers = [
            round(value, DIGITS[desk.unit]) for value in box.to(desk.unit, desk.frame(box.picture)).corners
        ]
        shown = [int(value) if not DIGITS[desk.unit] else value for value in numbers]
        where = "" if box.picture == FIRST else f" on {box.picture}"
        lines.append(f"Input box{where}: {shown}")
    return lines
