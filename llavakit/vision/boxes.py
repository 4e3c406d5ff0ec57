"""Boxes that say which picture they are of and what their numbers count, and the way from one unit to another.

Models differ in what they write for the same box, and a wrong guess is a box that is plausible and wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llavakit.core.errors import DataError, pick
from llavakit.vision.layout import Resize, Size, Step

# px: pixels of the upright picture; 0-1 and 0-1000: parts of its width and height; input: pixels of the canvas that
# the model's plan makes of it (padded, resized, before tiles are cut).
Unit = Literal["px", "0-1", "0-1000", "input"]
SCALES = {"0-1": 1.0, "0-1000": 1000.0}
UNIT_WORDS: dict[Unit, str] = {
    "px": "in pixels of the picture", "0-1": "from 0 to 1 of its width and height",
    "0-1000": "from 0 to 1000 of its width and height", "input": "in pixels as you see the picture",
}  # fmt: skip
# What families of models write. LLaVA's data (RefCOCO, VG, LLaVA-Plus) means the picture without its padding.
FAMILY_UNITS: dict[str, Unit] = {
    "llava": "0-1", "llava-plus": "0-1", "internvl": "0-1000", "qwen2-vl": "0-1000", "qwen2.5-vl": "input",
    "qwen3-vl": "0-1000", "kosmos-2": "0-1", "shikra": "0-1", "molmo": "0-1000",
}  # fmt: skip


def read_unit(name: str) -> Unit:
    """A unit by its name, or by that of a family of models that writes boxes in it. ConfigError for others."""
    units: dict[str, Unit] = {unit: unit for unit in UNIT_WORDS}
    return pick(units | FAMILY_UNITS, name, "unit of boxes")


@dataclass(frozen=True)
class Frame:
    """A picture's size, and the steps that make the model's canvas of it (`plan_image(...).views[-1].steps`)."""

    size: Size
    steps: tuple[Step, ...] = ()

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the picture lies on the canvas, both in pixels."""
        size = self.size
        for step in self.steps:
            if isinstance(step, Resize):
                x, y = x * step.size[0] / size[0], y * step.size[1] / size[1]
            else:
                x, y = x + step.offset[0], y + step.offset[1]
            size = step.size
        return x, y

    def from_canvas(self, x: float, y: float) -> tuple[float, float]:
        """The way back; what lies in the padding lies outside the picture."""
        sizes = [self.size, *(step.size for step in self.steps)]
        for step, size in reversed(list(zip(self.steps, sizes, strict=False))):
            if isinstance(step, Resize):
                x, y = x * size[0] / step.size[0], y * size[1] / step.size[1]
            else:
                x, y = x - step.offset[0], y - step.offset[1]
        return x, y


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture that is called `picture`. Right and bottom are outside of it."""

    picture: str
    unit: Unit
    left: float
    top: float
    right: float
    bottom: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return self.left, self.top, self.right, self.bottom

    def to(self, unit: Unit, frame: Frame) -> "Box":
        """The same rectangle in another unit; `frame` is that of the picture. Nothing is rounded or clamped."""
        left, top = _convert((self.left, self.top), self.unit, unit, frame)
        right, bottom = _convert((self.right, self.bottom), self.unit, unit, frame)
        return replace(self, unit=unit, left=left, top=top, right=right, bottom=bottom)

    def pixels(self, frame: Frame) -> tuple[int, int, int, int]:
        """Whole pixels that cover the box, inside the picture. DataError where none of it is inside."""
        left, top, right, bottom = self.to("px", frame).corners
        # 1e-6: a corner that the way there and back moved by the last bit is still the pixel's edge.
        found = (
            max(int(left + 1e-6), 0), max(int(top + 1e-6), 0),
            min(-int(-(right - 1e-6) // 1), frame.size[0]), min(-int(-(bottom - 1e-6) // 1), frame.size[1]),
        )  # fmt: skip
        if found[0] >= found[2] or found[1] >= found[3]:
            width, height = frame.size
            raise DataError(
                f"the box {list(self.corners)} ({self.unit}) covers nothing of {self.picture}, "
                f"{width} x {height} pixels"
            )
        return found


def make_box(picture: str, unit: Unit, numbers: Sequence[float]) -> Box:
    """Left, top, right, bottom as models write them; corners in the wrong order are put in order."""
    if len(numbers) != 4:
        raise DataError(f"a box is four numbers (left, top, right, bottom), not {len(numbers)}")
    one, two, three, four = map(float, numbers)
    return Box(picture, unit, min(one, three), min(two, four), max(one, three), max(two, four))


def _convert(point: tuple[float, float], unit: Unit, to: Unit, frame: Frame) -> tuple[float, float]:
    if unit == to:
        return point
    x, y = point
    width, height = frame.size
    if unit == "input":
        x, y = frame.from_canvas(x, y)
    elif unit != "px":
        x, y = x * width / SCALES[unit], y * height / SCALES[unit]
    if to == "input":
        return frame.to_canvas(x, y)
    return (x, y) if to == "px" else (x * SCALES[to] / width, y * SCALES[to] / height)
