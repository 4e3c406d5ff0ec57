"""Engines in a process of their own, over HTTP: JSON goes there, so many bytes at most come back."""

import base64
import io
from typing import Any

import httpx2
import numpy as np
import PIL.Image

from llavakit.core.errors import RemoteError

SECONDS = 60.0
LARGEST = 2**27  # bytes of an answer


class Outside:
    """One address that is posted to. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx2.Client(timeout=SECONDS)

    def ask(self, what: dict[str, Any]) -> bytes:
        """The body of the answer."""
        data = b""
        try:
            with self._client.stream("POST", self.url, json=what) as answer:
                for block in answer.iter_bytes():
                    data += block
                    if len(data) > LARGEST:
                        raise RemoteError(f"{self.url}: answers with more than {LARGEST} bytes")
        except httpx2.HTTPError as error:
            raise RemoteError(f"{self.url}: {type(error).__name__}: {error}") from None
        if answer.status_code != 200:
            raise RemoteError(f"{self.url}: answers with {answer.status_code}")
        return data


def packed(pixels: np.ndarray) -> str:
    """A PNG in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
