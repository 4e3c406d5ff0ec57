"""Boxes drawn on a picture, each with a number or a word: for people, and for models asked about numbers."""

from typing import Annotated

import numpy as np
import PIL.Image
import PIL.ImageDraw
from pydantic import Field

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer, Drawn, Picture, Region

# Far from each other, and readable under white letters.
INKS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#e377c2", "#8c564b", "#17748c", "#b8860b")


def mark(
    image: Picture,
    boxes: tuple[Region, ...],
    labels: Annotated[
        list[Annotated[str, Field(max_length=40)]] | None,
        Field(max_length=500, description="One word for each box; without them, numbers from 1."),
    ] = None,
) -> Answer:
    """Draw boxes on a picture, each with a label, to show them or to ask about them by number."""
    if not boxes:
        raise ToolError("no box was given")
    if labels is not None and len(labels) != len(boxes):
        raise ToolError(f"there are {len(boxes)} boxes and {len(labels)} labels")
    canvas = PIL.Image.fromarray(image.pixels_HW3)
    draw = PIL.ImageDraw.Draw(canvas)
    size = max(10, min(36, min(image.size) // 24))
    for number, box in enumerate(boxes):
        ink, word = INKS[number % len(INKS)], str(number + 1) if labels is None else labels[number]
        draw.rectangle(
            (box.left, box.top, box.right - 1, box.bottom - 1), outline=ink, width=max(2, size // 8)
        )
        left, top, right, bottom = draw.textbbox((0, 0), word, font_size=size)
        across, down = right - left + 6, bottom - top + 6
        # Above the box where there is room, else inside of it.
        x, y = min(box.left, max(image.size[0] - across, 0)), box.top - down if box.top >= down else box.top
        draw.rectangle((x, y, x + across, y + down), fill=ink)
        draw.text((x + 3 - left, y + 3 - top), word, fill="white", font_size=size)
    return Answer({}, (Drawn(np.asarray(canvas), (0, 0)),))
