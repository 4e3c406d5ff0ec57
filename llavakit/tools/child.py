"""The side of the child process: a function by its name, its arguments from files and JSON, its answer to the same.

Pictures travel as files in the folder that the question names.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from llavakit.core.errors import UserError
from llavakit.text.calls import Json, ToolUnavailable
from llavakit.tools.arguments import Answer, Mask, Original, Picture, Point, Region
from llavakit.vision.image import load_image
from llavakit.vision.rle import decode_rle, encode_rle

BOX, POINT, MASK = (
    "$box",
    "$point",
    "$mask",
)  # keys that only this file writes, around what needs its unit told


def reply_to(question: Json) -> Json:
    """Call the function. What it refuses is a `problem`; any other exception is for who asked to report."""
    module, name = question["function"].split(":")
    try:
        arguments = {each: _argument(*said) for each, said in question["arguments"].items()}
        answer = vars(importlib.import_module(module))[name](**arguments)
    except UserError as error:
        return {"problem": str(error), "unavailable": isinstance(error, ToolUnavailable)}
    return _write(answer, Path(question["folder"]))


def _argument(kind: str, value: Any) -> Any:
    match kind:
        case "picture":
            return Picture(value["name"], np.asarray(load_image(Path(value["path"]))))
        case "original":
            return Original(value["name"], np.asarray(load_image(Path(value["path"]))))
        case "region":
            return Region(*value)
        case "regions":
            return tuple(Region(*one) for one in value)
        case "point":
            return Point(*value)
        case "points":
            return tuple(Point(*one) for one in value)
        case "mask":
            said = json.loads(Path(value).read_text())
            return Mask(decode_rle(said["size"], said["counts"]))
    return value


def _write(answer: Answer, folder: Path) -> Json:
    pictures = []
    for number, drawn in enumerate(answer.pictures):
        path = folder / f"{number}.png"
        PIL.Image.fromarray(np.ascontiguousarray(drawn.pixels_HW3)).save(path, compress_level=1)
        pictures.append({"path": str(path), "corner": drawn.corner, "scale": drawn.scale})
    return {"value": _plain(answer.value), "pictures": pictures}


def _plain(node: Any) -> Any:
    """As JSON has it, with regions, points and masks marked."""
    if isinstance(node, Region):
        return {BOX: [float(number) for number in node]}
    if isinstance(node, Point):
        return {POINT: [float(number) for number in node]}
    if isinstance(node, Mask):
        return {MASK: encode_rle(node.inside_HW)}
    if isinstance(node, dict):
        return {name: _plain(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(item) for item in node]
    return node.item() if isinstance(node, np.generic) else node
