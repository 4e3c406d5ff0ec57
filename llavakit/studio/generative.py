"""Engines that make pixels, by `diffusers`: inpainting by a prompt, instruction editing, grounded layouts (GLIGEN).

How pipelines are opened and run is told in llavakit/tools/diffusion.py.
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from llavakit.core.errors import ConfigError
from llavakit.studio.engines import Watch, unwatched
from llavakit.studio.tiles import Box, Pixels
from llavakit.tools.diffusion import SIDE, STEPS, Pipeline

GLIGEN_SIDE = 512
GROUNDED = 0.3  # of the steps follow the boxes: its authors' value for pictures made from nothing
GROUNDED_PIPELINES = ("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline")


class DiffusersInpainter:
    """An Inventor: Stable Diffusion, SDXL, Flux Fill and others."""

    def __init__(self, path: str, *, steps: int = STEPS, side: int = SIDE) -> None:
        self._pipeline = Pipeline(path, inpaints=True, steps=steps, side=side)

    def invent(self, rgb: Pixels, hole: Pixels, prompt: str, seed: int, watch: Watch = unwatched) -> Pixels:
        height, width = hole.shape
        size = self._pipeline.fit(width, height)
        made = self._pipeline.run(
            seed, (width, height), prompt=prompt, width=size[0], height=size[1],
            image=PIL.Image.fromarray(rgb).resize(size),
            mask_image=PIL.Image.fromarray(np.uint8(255) * hole).resize(size),
            callback_on_step_end=self._pipeline.told(watch),
        )  # fmt: skip
        return np.where(hole[..., None], made, rgb)


class DiffusersEditor:
    """An Editor: InstructPix2Pix, Flux Kontext, Qwen-Image-Edit."""

    def __init__(self, path: str, *, steps: int = STEPS, side: int = SIDE) -> None:
        self._pipeline = Pipeline(path, steps=steps, side=side)

    def edit(self, rgb: Pixels, prompt: str, seed: int, watch: Watch = unwatched) -> Pixels:
        height, width = rgb.shape[:2]
        image = PIL.Image.fromarray(rgb).resize(self._pipeline.fit(width, height))
        told = self._pipeline.told(watch)
        return self._pipeline.run(
            seed, (width, height), prompt=prompt, image=image, callback_on_step_end=told
        )


class Gligen:
    """A LayoutGenerator (arXiv 2301.07093). It makes squares, which are stretched to the canvas."""

    def __init__(self, path: str, *, steps: int = STEPS, side: int = GLIGEN_SIDE) -> None:
        """ConfigError for a model that cannot follow boxes: without its gated layers boxes would change nothing."""
        self._pipeline = Pipeline(path, steps=steps, side=side)
        if type(self._pipeline.pipe).__name__ not in GROUNDED_PIPELINES:
            raise ConfigError(f"{path}: not a GLIGEN model; one is masterful/gligen-1-4-generation-text-box")

    def generate(
        self, size: tuple[int, int], caption: str, boxes: Sequence[Box], phrases: Sequence[str], seed: int,
        watch: Watch = unwatched,
    ) -> Pixels:  # fmt: skip
        width, height = size
        shares = [[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in boxes]
        return self._pipeline.run(
            seed, size, prompt=caption, gligen_boxes=shares, gligen_phrases=list(phrases),
            gligen_scheduled_sampling_beta=GROUNDED, width=self._pipeline.side, height=self._pipeline.side,
            callback=lambda step, timestep, latents: watch((step + 1) / self._pipeline.steps),
        )  # fmt: skip
