"""LaMa in a process of its own, over HTTP: the server that LLaVA-Interactive started beside its page.

`POST URL/api/v2/image` with `image` and `mask` (PNG in base64, white is filled) gives a PNG of the same size.
"""

import numpy as np

from llavakit.core.errors import DataError, RemoteError
from llavakit.studio.scene import EditError
from llavakit.studio.tiles import Pixels
from llavakit.tools.outside import Outside, packed
from llavakit.vision.image import load_image

PATH = "/api/v2/image"


class Lama:
    """An Inpainter behind a URL. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self._server = Outside(url.rstrip("/") + PATH)

    def fill(self, rgb: Pixels, hole: Pixels, prompt: str = "", seed: int = 0) -> Pixels:
        """uint8[h, w, 3]. The prompt must be empty: LaMa knows no words."""
        if prompt:
            raise EditError("LaMa follows no prompt; choose a generative engine")
        data = self._server.ask({"image": packed(rgb), "mask": packed(np.uint8(255) * hole)})
        try:
            made = np.asarray(load_image(data))
        except DataError as error:
            raise RemoteError(f"{self._server.url}: {error}") from None
        if made.shape != rgb.shape:
            raise RemoteError(
                f"{self._server.url}: gave {made.shape[1]} x {made.shape[0]} pixels for {rgb.shape[1]} x "
                f"{rgb.shape[0]}"
            )
        return np.where(hole[..., None], made, rgb)
