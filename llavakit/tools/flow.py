"""Filling at once: edges flow into the hole (Navier-Stokes, Bertalmio 2001). Smooth, without texture: a preview."""

import numpy as np
import PIL.Image

from llavakit.text.calls import ToolError
from llavakit.tools.opencv import opencv

RADIUS = 3  # pixels around a point that it is made of
LONGEST = 320  # of the picture that is filled: a smooth fill loses nothing by being enlarged


class Flow:
    """Fills for previews."""

    def fill(self, rgb: np.ndarray, hole: np.ndarray, prompt: str = "", seed: int = 0) -> np.ndarray:
        """uint8[h, w, 3]. The prompt must be empty: nothing is invented here."""
        if prompt:
            raise ToolError("filling from around a hole follows no prompt; choose a generative engine")
        cv2 = opencv()
        height, width = hole.shape
        factor = min(1.0, LONGEST / max(height, width))
        if factor == 1:
            small, small_hole = rgb, np.uint8(hole)
        else:
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            small_hole = np.uint8(cv2.resize(np.float32(hole), size, interpolation=cv2.INTER_AREA) > 0)
            known = (~hole).astype(np.float32)
            weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
            colour = cv2.resize(rgb * known[..., None], size, interpolation=cv2.INTER_AREA)
            small = np.rint(colour / np.maximum(weight, 1e-6)[..., None]).astype(np.uint8)
        if small_hole.all():
            raise ToolError("nothing is left around the hole to fill it from")
        filled = cv2.inpaint(np.ascontiguousarray(small), small_hole, RADIUS, cv2.INPAINT_NS)
        if factor < 1:
            filled = np.asarray(
                PIL.Image.fromarray(filled).resize((width, height), PIL.Image.Resampling.BICUBIC)
            )
        return np.where(hole[..., None], filled, rgb)
