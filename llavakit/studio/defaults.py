"""The engines there are, and which of them are chosen where nobody says otherwise."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from llavakit.core.errors import pick
from llavakit.studio.engines import (
    Bench,
    Editor,
    Engine,
    Inpainter,
    Inventor,
    LayoutGenerator,
    PromptSegmenter,
    Role,
)
from llavakit.studio.segment.classical import Classical
from llavakit.text.calls import ToolUnavailable
from llavakit.tools import diffusion
from llavakit.tools.flow import Flow
from llavakit.tools.opencv import INSTALL
from llavakit.tools.patchmatch import PatchMatch
from llavakit.tools.saliency import U2NETP


def default_bench(**weights: str | None) -> Bench:
    """All engines; those that need no hub are chosen.

    `weights` are directories or hub ids by the names of HUB, of lama and seem the URLs of their servers: what is
    given is there, and chosen for what it does (clipseg, which knows words only, is asked by its name). ConfigError
    for an unknown name.
    """
    for name in weights:
        pick(HUB, name, "engine")
    table = {
        "classical": Engine(
            "segment", "what stands out, and what looks alike", Classical, _lacks_u2net, "classical"
        ),
        "flow": Engine("preview", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
        "patchmatch": Engine("inpaint", "PatchMatch", PatchMatch, _lacks_opencv, "classical"),
    }
    chosen: dict[Role, str] = {"segment": "classical", "preview": "flow", "inpaint": "patchmatch"}
    for name, row in HUB.items():
        path = weights.get(name)
        table[name] = Engine(
            row.role,
            row.title,
            partial(row.make, path or ""),
            partial(row.lacks, name, path),
            takes=row.takes,
        )
        if path and row.chosen:
            chosen[row.role] = name
    return Bench(table, chosen)


def _lacks_opencv() -> str | None:
    return None if importlib.util.find_spec("cv2") else INSTALL


def _lacks_u2net() -> str | None:
    try:
        U2NETP.find()
    except ToolUnavailable as error:
        return str(error)
    return _lacks_opencv()


def _sam2(path: str) -> PromptSegmenter:
    from llavakit.studio.segment.hub import SamMarks
    from llavakit.tools.sam import Sam2

    return SamMarks(Sam2(path), "SAM-2")


def _sam3(path: str) -> PromptSegmenter:
    from llavakit.studio.segment.sam3 import Sam3

    return Sam3(path)


def _clipseg(path: str) -> PromptSegmenter:
    from llavakit.studio.segment.hub import ClipSeg

    return ClipSeg(path)


def _seem(url: str) -> PromptSegmenter:
    from llavakit.studio.segment.seem import Seem

    return Seem(url)


def _lama(url: str) -> Inpainter:
    from llavakit.studio.fill.lama import Lama

    return Lama(url)


def _inventor(path: str) -> Inventor:
    from llavakit.studio.generative import DiffusersInpainter

    return DiffusersInpainter(path)


def _editor(path: str) -> Editor:
    from llavakit.studio.generative import DiffusersEditor

    return DiffusersEditor(path)


def _gligen(path: str) -> LayoutGenerator:
    from llavakit.studio.generative import Gligen

    return Gligen(path)


@dataclass(frozen=True)
class _Hub:
    """An engine whose weights are named: `example` is one, `package` what it needs beside transformers."""

    role: Role
    title: str
    make: Callable[[str], Any]
    example: str
    package: str = ""
    chosen: bool = True
    takes: tuple[Literal["marks", "words"], ...] = ("marks", "words")

    def lacks(self, name: str, path: str | None) -> str | None:
        """What is missing for weights at `path`."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return diffusion.INSTALL
        return None if path else f"name its weights, as in {name}={self.example}"


HUB: dict[str, _Hub] = {
    "sam2": _Hub("segment", "SAM-2", _sam2, "facebook/sam2.1-hiera-small", takes=("marks",)),
    "sam3": _Hub("segment", "SAM-3, for marks and words", _sam3, "facebook/sam3"),
    "clipseg": _Hub(
        "segment", "CLIPSeg, for words", _clipseg, "CIDAS/clipseg-rd64-refined", chosen=False, takes=("words",)
    ),
    "seem": _Hub("segment", "SEEM, a server of its own", _seem, "http://127.0.0.1:9172"),
    "lama": _Hub("inpaint", "LaMa, a server of its own", _lama, "http://127.0.0.1:9171"),
    "inpaint": _Hub(
        "invent", "inpainting by a prompt", _inventor, "stabilityai/stable-diffusion-2-inpainting", "diffusers"
    ),
    "edit": _Hub("edit", "editing by an instruction", _editor, "timbrooks/instruct-pix2pix", "diffusers"),
    "layout": _Hub(
        "generate", "GLIGEN: a layout of boxes", _gligen, "masterful/gligen-1-4-generation-text-box", "diffusers"
    ),
}  # fmt: skip
