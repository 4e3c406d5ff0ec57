"""OpenCV, which comes with the extra `studio`."""

from typing import Any

from llavakit.core.errors import ConfigError

INSTALL = "pip install 'llavakit[studio]'"


def opencv() -> Any:
    """The module cv2, or a ConfigError that says how to get it."""
    try:
        import cv2
    except ImportError:
        raise ConfigError(f"editing needs OpenCV: {INSTALL}") from None
    return cv2
