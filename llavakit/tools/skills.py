"""The table of our tools: one row each. What needs no weights shares a few processes, the others have their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llavakit.core.errors import pick
from llavakit.text.calls import Weights
from llavakit.tools import (
    codes,
    cutting,
    detection,
    faces,
    looking,
    marking,
    reading,
    reckoning,
    saliency,
    selecting,
)
from llavakit.tools.arguments import Answer
from llavakit.tools.function import FunctionTool
from llavakit.tools.registry import Registry
from llavakit.tools.workers import Workers

ADDRESS_SPACE = 16.0  # gigabytes that a process with a model may map; what it uses is far less


@dataclass(frozen=True)
class Skill:
    """A function as a tool. With `weights` it is heavy: it has a process of its own, which loads them once."""

    function: Callable[..., Answer]
    seconds: float = 10.0  # of one call; of a heavy one, with loading
    weights: Weights | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    def open(self, shared: Workers) -> FunctionTool:
        """The tool; light ones run in `shared`. Nothing is started yet."""
        if self.weights is None:
            return FunctionTool(self.function, shared, seconds=self.seconds)
        own = Workers(at_once=1, seconds=self.seconds, memory=ADDRESS_SPACE)
        return FunctionTool(self.function, own, cost="heavy", seconds=self.seconds, weights=self.weights)


SKILLS = {
    skill.name: skill
    for skill in (
        Skill(cutting.crop),
        Skill(cutting.zoom),
        Skill(cutting.rotate),
        Skill(cutting.blur),
        Skill(marking.mark),
        Skill(looking.measure),
        Skill(looking.colors),
        Skill(looking.count_shapes),
        Skill(looking.find_pattern),
        Skill(looking.edges),
        Skill(codes.read_codes),
        Skill(selecting.select, seconds=20.0),
        Skill(selecting.inpaint, seconds=20.0),
        Skill(reading.ocr, seconds=60.0, weights=reading.WEIGHTS),
        Skill(faces.faces, seconds=60.0, weights=faces.CENTERFACE.weights),
        Skill(saliency.salient, seconds=60.0, weights=saliency.U2NETP.weights),
        Skill(detection.detect, seconds=60.0, weights=detection.YOLO.weights),
        Skill(reckoning.calculate, seconds=5.0),
        Skill(reckoning.table, seconds=5.0),
    )
}


def open_tools(names: Sequence[str] | None = None) -> Registry:
    """The tools of these names, or all. ConfigError names the nearest for an unknown one. To be closed."""
    chosen = list(SKILLS) if names is None else names
    shared = Workers()
    return Registry(pick(SKILLS, name, "tool").open(shared) for name in dict.fromkeys(chosen))
