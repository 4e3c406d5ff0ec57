"""Engines that make pixels, by `diffusers`: inpainting by a prompt, instruction editing, grounded layouts (GLIGEN).

A model sees a picture of at most `side` pixels; what it makes is brought back to the size it came from. The same
seed gives the same picture on one machine.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import PIL.Image
import torch

from llavakit.core.errors import ConfigError
from llavakit.studio.engines import Watch, unwatched
from llavakit.studio.tiles import Box, Pixels

SIDE = 768  # pixels of the longer side of what a model is given
GRID = 16  # pixels of a side are a multiple of it: latent pixels in pairs
STEPS = 30
GLIGEN_SIDE = 512
GROUNDED = 0.3  # of the steps follow the boxes: its authors' value for pictures made from nothing
GROUNDED_PIPELINES = ("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline")


class _Pipeline:
    """A pipeline of diffusers, for one caller at a time."""

    def __init__(self, path: str, *, inpaints: bool = False, steps: int = STEPS, side: int = SIDE) -> None:
        """A directory or hub id. ConfigError where it cannot be read."""
        from diffusers import AutoPipelineForInpainting, DiffusionPipeline

        self.steps, self.side, self._lock = steps, side, Lock()
        cuda = torch.cuda.is_available()
        kind: Any = AutoPipelineForInpainting if inpaints else DiffusionPipeline
        try:
            self.pipe: Any = kind.from_pretrained(
                path, torch_dtype=torch.float16 if cuda else torch.float32, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from None
        self.pipe.to("cuda" if cuda else "cpu")
        self.pipe.set_progress_bar_config(disable=True)

    def run(self, seed: int, size: tuple[int, int], **asked: Any) -> Pixels:
        """uint8[h, w, 3] of `size` (width, height), whatever size the model makes."""
        with self._lock:
            random = torch.Generator("cpu").manual_seed(seed)
            said = self.pipe(generator=random, num_inference_steps=self.steps, **asked)
        made: PIL.Image.Image = said.images[0].convert("RGB")
        return np.asarray(made if made.size == size else made.resize(size, PIL.Image.Resampling.LANCZOS))

    def told(self, watch: Watch) -> Any:
        """What diffusers calls after each step."""

        def after(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
            watch((step + 1) / self.steps)
            return kept

        return after

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size that the model is given for a picture."""
        scale = min(1.0, self.side / max(width, height))
        return tuple(max(GRID, round(edge * scale / GRID) * GRID) for edge in (width, height))  # type: ignore[return-value]


class DiffusersInpainter:
    """An Inventor: Stable Diffusion, SDXL, Flux Fill and others."""

    def __init__(self, path: str, *, steps: int = STEPS, side: int = SIDE) -> None:
        self._pipeline = _Pipeline(path, inpaints=True, steps=steps, side=side)

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
        self._pipeline = _Pipeline(path, steps=steps, side=side)

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
        self._pipeline = _Pipeline(path, steps=steps, side=side)
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
