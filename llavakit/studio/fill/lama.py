"""LaMa in a process of its own, over HTTP: the server that LLaVA-Interactive started beside its page.

`POST URL/api/v2/image` with `image` and `mask` (PNG in base64, white is filled) gives a PNG of the same size.
"""

import base64
import io

import httpx2
import numpy as np
import PIL.Image

from llavakit.core.errors import DataError, RemoteError
from llavakit.studio.scene import EditError
from llavakit.studio.tiles import Pixels
from llavakit.vision.image import load_image

PATH = "/api/v2/image"
SECONDS = 60.0
LARGEST = 2**27  # bytes of an answer


class Lama:
    """An Inpainter behind a URL. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + PATH
        self._client = httpx2.Client(timeout=SECONDS)

    def fill(self, rgb: Pixels, hole: Pixels, prompt: str = "", seed: int = 0) -> Pixels:
        """uint8[h, w, 3]. The prompt must be empty: LaMa knows no words."""
        if prompt:
            raise EditError("LaMa follows no prompt; choose a generative engine")
        asked = {"image": _packed(rgb), "mask": _packed(np.uint8(255) * hole)}
        try:
            with self._client.stream("POST", self._url, json=asked) as answer:
                data = b""
                for block in answer.iter_bytes():
                    data += block
                    if len(data) > LARGEST:
                        raise RemoteError(f"{self._url}: answers with more than {LARGEST} bytes")
        except httpx2.HTTPError as error:
            raise RemoteError(f"{self._url}: {type(error).__name__}: {error}") from None
        if answer.status_code != 200:
            raise RemoteError(f"{self._url}: answers with {answer.status_code}")
        try:
            made = np.asarray(load_image(data))
        except DataError as error:
            raise RemoteError(f"{self._url}: {error}") from None
        if made.shape != rgb.shape:
            raise RemoteError(
                f"{self._url}: gave {made.shape[1]} x {made.shape[0]} pixels for {rgb.shape[1]} x {rgb.shape[0]}"
            )
        return np.where(hole[..., None], made, rgb)


def _packed(pixels: Pixels) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
