"""The table of our tools: one row each. What needs no weights shares a few processes, the others have their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from llavakit.core.errors import ConfigError, pick
from llavakit.text.calls import Card, Weights
from llavakit.tools import (
    codes,
    cutting,
    detection,
    faces,
    hub_models,
    looking,
    making,
    marking,
    reading,
    reckoning,
    saliency,
    seem,
    selecting,
)
from llavakit.tools.aliases import ZOOM, AliasTool
from llavakit.tools.arguments import Answer
from llavakit.tools.devices import room_on
from llavakit.tools.diffusion import STEPS
from llavakit.tools.function import FunctionTool
from llavakit.tools.plus_aliases import PLUS
from llavakit.tools.registry import Registry
from llavakit.tools.workers import Workers


@dataclass(frozen=True)
class Skill:
    """A function as a tool. With `weights` it is heavy: it has a process of its own, which loads them once.

    `settings` are what it is opened with by default; empty ones must be given. Such a tool must be named.
    """

    function: Callable[..., Answer]
    seconds: float = 10.0  # of one call; of a heavy one, with loading
    weights: Weights | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__

    def open(self, shared: Workers, changed: Mapping[str, str]) -> FunctionTool:
        """The tool; light ones run in `shared`. Nothing is started yet."""
        if self.weights is None:
            return FunctionTool(self.function, shared, seconds=self.seconds)
        settings = dict(self.settings)
        for name, value in changed.items():
            pick(settings, name, f"setting of {self.name}")
            settings[name] = value
        for name, value in settings.items():
            if not value:
                raise ConfigError(f"{self.name} needs {name}: --set {self.name}.{name}=...")
        room = room_on(settings.pop("device", "cpu"), self.name)
        own = Workers(at_once=1, seconds=self.seconds, memory=room.memory, environ=room.environ)
        return FunctionTool(
            self.function, own, cost="heavy", seconds=self.seconds, weights=self.weights, opened_with=settings
        )


def _hub(
    function: Callable[..., Answer], hub_id: str, name: str, licence: str, megabytes: float, **more: str
) -> Skill:
    weights = Weights(name, licence, f"hub {hub_id}", megabytes, device="auto")
    return Skill(function, 300.0, weights, (("model", hub_id), *more.items(), ("device", "auto")))


def _maker(function: Callable[..., Answer], hub_id: str, name: str, **more: str) -> Skill:
    return _hub(function, hub_id, name, "CreativeML OpenRAIL-M", 5000, **more, steps=str(STEPS))


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
        _hub(hub_models.ground, "IDEA-Research/grounding-dino-tiny", "Grounding DINO", "Apache-2.0", 2500),
        _hub(hub_models.segment, "facebook/sam2.1-hiera-tiny", "SAM 2.1", "Apache-2.0", 1500),
        Skill(seem.segment_like, 120.0, seem.WEIGHTS, (("url", ""),)),
        _hub(hub_models.parts, "openmmlab/upernet-convnext-tiny", "UPerNet", "MIT", 1500),
        _hub(hub_models.caption, "Salesforce/blip-image-captioning-base", "BLIP", "BSD-3-Clause", 2000),
        _hub(hub_models.search, "google/siglip-base-patch16-224", "SigLIP", "Apache-2.0", 2000, folder=""),
        _hub(hub_models.alike, "google/siglip-base-patch16-224", "SigLIP", "Apache-2.0", 2000, folder=""),
        _hub(hub_models.tag, "google/siglip-base-patch16-224", "SigLIP", "Apache-2.0", 2000),
        _maker(making.generate, "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5"),
        _maker(making.edit, "timbrooks/instruct-pix2pix", "InstructPix2Pix"),
        _maker(making.paint, "stabilityai/stable-diffusion-2-inpainting", "Stable Diffusion 2"),
        _maker(
            making.redraw,
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "Stable Diffusion 1.5 with ControlNet",
            control="lllyasviel/sd-controlnet-canny",
        ),
        Skill(reckoning.calculate, seconds=5.0),
        Skill(reckoning.table, seconds=5.0),
    )
}


ALIASES = {alias.name: alias for alias in (ZOOM, *PLUS)}


def cards_of_all() -> list[Card]:
    """What is told about every tool; behind ours those of the hub, then aliases."""
    shared = Workers()
    tools = {name: replace(skill, settings=()).open(shared, {}) for name, skill in SKILLS.items()}
    own = Registry(tools[name] for name, skill in SKILLS.items() if not skill.settings)
    hub = Registry(tools[name] for name, skill in SKILLS.items() if skill.settings)
    aliases = Registry(AliasTool(alias, tools) for alias in ALIASES.values())
    return [*own.cards, *hub.cards, *aliases.cards]


def open_tools(
    names: Sequence[str] | None = None, settings: Mapping[str, Mapping[str, str]] | None = None
) -> Registry:
    """The tools and aliases of these names, or all tools that need nothing from a hub. To be closed.

    `settings` of tools by name: the model, the folder. ConfigError names the nearest for an unknown one.
    """
    chosen = [name for name, skill in SKILLS.items() if not skill.settings] if names is None else names
    shared, changed = Workers(), dict(settings or {})
    known = SKILLS.keys() | ALIASES.keys()
    for name in (*chosen, *changed):
        pick(dict.fromkeys(known), name, "tool")

    @cache
    def opened(name: str) -> FunctionTool:  # once, for however many aliases
        return SKILLS[name].open(shared, changed.get(name, {}))

    return Registry(
        AliasTool(ALIASES[name], {target: opened(target) for target in ALIASES[name].targets})
        if name in ALIASES
        else opened(name)
        for name in dict.fromkeys(chosen)
    )
