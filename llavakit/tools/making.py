"""Tools that make pictures, by `diffusers`: from words, from an instruction, into a hole, along a given layout.

Each loads on its first call, in a process of its own. `model` and `control` are hub ids or directories.
"""

from functools import cache
from typing import Annotated

import numpy as np
import PIL.Image
from pydantic import Field

from llavakit.core.errors import ConfigError
from llavakit.text.calls import ToolError, ToolUnavailable
from llavakit.tools.arguments import Answer, Drawn, Mask, Picture
from llavakit.tools.diffusion import SIDE, STEPS, Pipeline

Prompt = Annotated[str, Field(min_length=1, max_length=500, description="What the picture shall show.")]
Side = Annotated[int, Field(ge=64, le=1536)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="Another number gives another picture.")]


def generate(
    prompt: Prompt,
    width: Side = 512,
    height: Side = 512,
    seed: Seed = 0,
    *,
    model: str,
    steps: str = str(STEPS),
) -> Answer:
    """Make a new picture from words (Stable Diffusion)."""
    pipeline = _pipeline(model, "", steps)
    size = pipeline.fit(width, height)
    return _made(pipeline.run(seed, (width, height), prompt=prompt, width=size[0], height=size[1]), seed)


def edit(
    image: Picture,
    prompt: Annotated[
        str, Field(min_length=1, max_length=500, description="What to change, such as: make it night.")
    ],
    seed: Seed = 0,
    *,
    model: str,
    steps: str = str(STEPS),
) -> Answer:
    """Change a whole picture as an instruction says (InstructPix2Pix)."""
    pipeline = _pipeline(model, "", steps)
    seen = PIL.Image.fromarray(image.pixels_HW3).resize(pipeline.fit(*image.size))
    return _made(pipeline.run(seed, image.size, prompt=prompt, image=seen), seed)


def paint(
    image: Picture, mask: Mask, prompt: Prompt, seed: Seed = 0, *, model: str, steps: str = str(STEPS)
) -> Answer:
    """Paint what words say into a masked part of a picture; the rest stays as it is (Stable Diffusion)."""
    if not mask.inside_HW.any():
        raise ToolError("the mask is empty: nothing would be painted")
    pipeline = _pipeline(model, "inpaints", steps)
    size = pipeline.fit(*image.size)
    made = pipeline.run(
        seed, image.size, prompt=prompt, width=size[0], height=size[1],
        image=PIL.Image.fromarray(image.pixels_HW3).resize(size),
        mask_image=PIL.Image.fromarray(np.uint8(255) * mask.inside_HW).resize(size),
    )  # fmt: skip
    return _made(np.where(mask.inside_HW[..., None], made, image.pixels_HW3), seed)


def redraw(
    image: Picture, prompt: Prompt, seed: Seed = 0, *, model: str, control: str, steps: str = str(STEPS)
) -> Answer:
    """Make a new picture from words with the layout of another one, such as the outlines of edges (ControlNet)."""
    pipeline = _pipeline(model, control, steps)
    size = pipeline.fit(*image.size)
    layout = PIL.Image.fromarray(image.pixels_HW3).resize(size)
    made = pipeline.run(seed, image.size, prompt=prompt, image=layout, width=size[0], height=size[1])
    return _made(made, seed)


def _made(pixels_HW3: np.ndarray, seed: int) -> Answer:
    return Answer({"seed": seed}, (Drawn(pixels_HW3),))


@cache
def _pipeline(model: str, kind: str, steps: str) -> Pipeline:
    """`kind` is empty, `inpaints`, or the ControlNet."""
    inpaints = kind == "inpaints"
    try:
        return Pipeline(
            model, inpaints=inpaints, control="" if inpaints else kind, steps=int(steps), side=SIDE
        )
    except ConfigError as error:  # in a tool it is the model's to hear
        raise ToolUnavailable(str(error)) from None
