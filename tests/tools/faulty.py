"""Functions of tools that go wrong, each in its own way."""

import os
import time

import numpy as np

from llavakit.tools.arguments import Answer, Drawn, Picture


def works(number: int = 1) -> Answer:
    """Gives a number back."""
    print("a line that is no reply")
    return Answer({"number": number})


def hangs() -> Answer:
    """Never ends."""
    time.sleep(1000)
    return Answer()


def raises() -> Answer:
    """A bug."""
    raise KeyError("a bug")


def dies() -> Answer:
    """Takes its process along."""
    os._exit(7)


def eats() -> Answer:
    """Wants more memory than there is."""
    return Answer({"size": len(np.ones(10**11))})


def rambles() -> Answer:
    """Gives what JSON cannot say."""
    return Answer({"value": {1, 2}})


def paints(image: Picture) -> Answer:
    """Gives a picture that is none."""
    return Answer({}, (Drawn(np.zeros((3, 3), "complex")),))
