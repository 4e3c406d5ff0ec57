"""The engines there are, and which of them are chosen where nobody says otherwise."""

import importlib.util

from llavakit.studio.engines import Bench, Engine
from llavakit.studio.fill.flow import Flow
from llavakit.studio.opencv import INSTALL


def default_bench() -> Bench:
    """All engines; those that need no weights are chosen."""
    table = {
        "flow": Engine("preview", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
        "flow-final": Engine("inpaint", "Navier-Stokes flow", Flow, _lacks_opencv, "classical"),
    }
    return Bench(table, {"preview": "flow", "inpaint": "flow-final"})


def _lacks_opencv() -> str | None:
    return None if importlib.util.find_spec("cv2") else INSTALL
