"""The engines there are, and which of them are chosen where nobody says otherwise."""

import importlib.util

from llavakit.studio.engines import Bench, Engine, PromptSegmenter
from llavakit.studio.fill.flow import Flow
from llavakit.studio.fill.patchmatch import PatchMatch
from llavakit.studio.opencv import INSTALL
from llavakit.studio.segment.classical import Classical
from llavakit.text.calls import ToolUnavailable
from llavakit.tools.saliency import U2NETP

NEEDS_SAM2 = "name its weights, as in sam2=facebook/sam2.1-hiera-small"
NEEDS_CLIPSEG = "name its weights, as in clipseg=CIDAS/clipseg-rd64-refined"


def default_bench(*, sam2: str | None = None, clipseg: str | None = None) -> Bench:
    """All engines; those that need no hub are chosen.

    `sam2`, `clipseg`: directories or hub ids of such models; SAM-2 is chosen where it is given.
    """
    table = {
        "classical": Engine(
            "segment", "what stands out, and what looks alike", Classical, _lacks_u2net, "classical"
        ),
        "sam2": Engine("segment", "SAM-2", lambda: _sam2(sam2 or ""), lambda: None if sam2 else NEEDS_SAM2),
        "clipseg": Engine(
            "segment",
            "CLIPSeg, for words",
            lambda: _clipseg(clipseg or ""),
            lambda: None if clipseg else NEEDS_CLIPSEG,
        ),
        "flow": Engine("preview", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
        "patchmatch": Engine("inpaint", "PatchMatch", PatchMatch, _lacks_opencv, "classical"),
    }
    return Bench(
        table, {"segment": "sam2" if sam2 else "classical", "preview": "flow", "inpaint": "patchmatch"}
    )


def _lacks_opencv() -> str | None:
    return None if importlib.util.find_spec("cv2") else INSTALL


def _lacks_u2net() -> str | None:
    try:
        U2NETP.find()
    except ToolUnavailable as error:
        return str(error)
    return _lacks_opencv()


def _sam2(path: str) -> PromptSegmenter:
    from llavakit.studio.segment.hub import Sam2

    return Sam2(path)


def _clipseg(path: str) -> PromptSegmenter:
    from llavakit.studio.segment.hub import ClipSeg

    return ClipSeg(path)
