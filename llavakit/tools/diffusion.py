"""Pipelines of `diffusers`, opened in one way for tools and for the editor.

A model sees a picture of at most `side` pixels; what it makes is brought back to the size it came from. The same
seed gives the same picture on one machine. Weights are read from safetensors only.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import PIL.Image

from llavakit.core.errors import ConfigError

INSTALL = "pip install 'llavakit[generate]'"
SIDE = 768  # pixels of the longer side of what a model is given
GRID = 16  # pixels of a side are a multiple of it: latent pixels in pairs
STEPS = 30


class Pipeline:
    """A pipeline of diffusers, for one caller at a time."""

    def __init__(
        self, path: str, *, inpaints: bool = False, control: str = "", steps: int = STEPS, side: int = SIDE
    ) -> None:
        """A directory or hub id, and with `control` that of a ControlNet. ConfigError where one cannot be read."""
        try:
            import diffusers
        except ImportError:
            raise ConfigError(f"making pictures needs diffusers: {INSTALL}") from None
        import torch

        self.steps, self.side, self._lock = steps, side, Lock()
        cuda = torch.cuda.is_available()
        how: dict[str, Any] = {
            "torch_dtype": torch.float16 if cuda else torch.float32, "use_safetensors": True,
        }  # fmt: skip
        kind: Any = diffusers.AutoPipelineForInpainting if inpaints else diffusers.DiffusionPipeline
        if control:
            kind = diffusers.StableDiffusionControlNetPipeline
            how["controlnet"] = _opened(diffusers.ControlNetModel, control, how)
        self.pipe = _opened(kind, path, how)
        self.pipe.to("cuda" if cuda else "cpu")
        self.pipe.set_progress_bar_config(disable=True)

    def run(self, seed: int, size: tuple[int, int], **asked: Any) -> np.ndarray:
        """uint8[h, w, 3] of `size` (width, height), whatever size the model makes."""
        import torch

        with self._lock:
            random = torch.Generator("cpu").manual_seed(seed)
            said = self.pipe(generator=random, num_inference_steps=self.steps, **asked)
        made: PIL.Image.Image = said.images[0].convert("RGB")
        return np.asarray(made if made.size == size else made.resize(size, PIL.Image.Resampling.LANCZOS))

    def told(self, watch: Callable[[float], None]) -> Any:
        """What diffusers calls after each step, to tell `watch` the share that is done."""

        def after(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
            watch((step + 1) / self.steps)
            return kept

        return after

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size that the model is given for a picture."""
        scale = min(1.0, self.side / max(width, height))
        return tuple(max(GRID, round(edge * scale / GRID) * GRID) for edge in (width, height))  # type: ignore[return-value]


def _opened(kind: Any, path: str, how: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(path, **how)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from None
