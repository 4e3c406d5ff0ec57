"""OpenCV, and what several tools do with it. Only child processes import it."""

from typing import Any

import numpy as np

from llavakit.core.errors import ConfigError

INSTALL = "pip install 'llavakit[tools]'"


def opencv() -> Any:
    """The module cv2. ConfigError with the line that installs it."""
    try:
        import cv2
    except ImportError:
        raise ConfigError(f"this tool needs OpenCV: {INSTALL}") from None
    return cv2


def gray(pixels_HW3: np.ndarray) -> np.ndarray:
    """uint8[h, w]."""
    grey: np.ndarray = opencv().cvtColor(pixels_HW3, opencv().COLOR_RGB2GRAY)
    return grey


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (width, height): averaged where it gets smaller, bicubic where it gets larger."""
    cv2 = opencv()
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    out: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return out
