"""The engines there are, and which of them are chosen where nobody says otherwise."""

import importlib.util

from llavakit.studio.engines import Bench, Engine
from llavakit.studio.fill.flow import Flow
from llavakit.studio.opencv import INSTALL
from llavakit.studio.segment.classical import Classical
from llavakit.text.calls import ToolUnavailable
from llavakit.tools.saliency import U2NETP


def default_bench() -> Bench:
    """All engines; those that need no weights are chosen."""
    table = {
        "classical": Engine(
            "segment", "what stands out, and what looks alike", Classical, _lacks_u2net, "classical"
        ),
        "flow": Engine("preview", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
        "flow-final": Engine("inpaint", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
    }
    return Bench(table, {"segment": "classical", "preview": "flow", "inpaint": "flow-final"})


def _lacks_opencv() -> str | None:
    return None if importlib.util.find_spec("cv2") else INSTALL


def _lacks_u2net() -> str | None:
    try:
        U2NETP.find()
    except ToolUnavailable as error:
        return str(error)
    return _lacks_opencv()
