"""A picture of four people before a wall, out of photos that packages carry, for counting people and hiding faces.

    python -m benchmarks.street street.png

The astronaut (NASA) and the wall come with scikit-image, the officer (U.S. Navy) with matplotlib; all are in the
public domain or CC0. People are cut out by the model of the tool `salient`, and stand there twice, mirrored.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageOps
from skimage import data

from llavakit.tools.saliency import saliency

WIDTH, HEIGHT = 1500, 560


class Place(NamedTuple):
    """Where one stands: the left edge and the height of the cutting in pixels, and how it is turned."""

    who: str
    left: int
    height: int
    mirrored: bool


PLACES = (
    Place("officer", 20, 420, True), Place("astronaut", 330, 500, False), Place("officer", 800, 440, False),
    Place("astronaut", 1150, 400, True),
)  # fmt: skip


def street() -> PIL.Image.Image:
    """The picture."""
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    people = {
        "astronaut": cut_out(PIL.Image.fromarray(data.astronaut())),
        "officer": cut_out(PIL.Image.open(photo).convert("RGB")),
    }
    wall = PIL.Image.fromarray(data.brick()).convert("RGB").resize((HEIGHT, HEIGHT))
    out = PIL.Image.new("RGB", (WIDTH, HEIGHT))
    for left in range(0, WIDTH, HEIGHT):
        out.paste(wall, (left, 0))
    for place in PLACES:
        one = people[place.who]
        one = one.resize((round(one.width * place.height / one.height), place.height))
        one = PIL.ImageOps.mirror(one) if place.mirrored else one
        out.paste(one, (place.left, HEIGHT - place.height), one)
    return out


def cut_out(photo: PIL.Image.Image) -> PIL.Image.Image:
    """Its main subject; the rest is transparent."""
    soft_HW = np.clip((saliency(np.asarray(photo), 320) - 0.3) / 0.4, 0, 1)
    cut = photo.copy()
    cut.putalpha(PIL.Image.fromarray(np.uint8(255 * soft_HW)).resize(photo.size))
    return cut


def main() -> None:
    """Write it."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path)
    street().save(asked.parse_args().out)


if __name__ == "__main__":
    main()
