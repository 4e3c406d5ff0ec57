"""SEEM, a server of its own (tools/seem.py says what it is sent), as a segmenter of the editor."""

from collections.abc import Sequence

import numpy as np

from llavakit.studio.engines import Found, Prompts, Step, View
from llavakit.studio.scene import EditError
from llavakit.studio.segment.standing_out import level
from llavakit.studio.tiles import nonzero_box
from llavakit.tools.opencv import opencv
from llavakit.tools.seem import Likely, SeemServer

SIDE = 1024  # pixels of the longer side of what is sent, or up to twice as many


class Seem:
    """A PromptSegmenter behind a URL. RemoteError where nobody answers as agreed."""

    def __init__(self, url: str) -> None:
        self._server = SeemServer(url)

    def steps(self, view: View) -> Sequence[Step]:
        """None: each question comes with its picture."""
        return ()

    def segment(self, view: View, prompts: Prompts) -> list[Found]:
        """EditError where nothing is found."""
        rgb = view.rgb(level(max(view.size), SIDE))
        scale = np.array([rgb.shape[1] / view.size[0], rgb.shape[0] / view.size[1]])
        told = self._server.masks(
            rgb,
            marks=[
                {
                    "path": (np.array(mark.path) * scale).tolist(),
                    "width": mark.width * float(scale[0]),
                    "inside": mark.inside,
                }
                for mark in prompts.marks
            ],
            box=None if prompts.box is None else (np.array(prompts.box) * np.tile(scale, 2)).tolist(),
            text=prompts.text,
            before_HW=None if prompts.before is None else opencv().resize(prompts.before, rgb.shape[1::-1]),
        )
        found = [each for mask in told if (each := _placed(mask, view.size))]
        if not found:
            raise EditError("SEEM found nothing there")
        return found


def _placed(said: Likely, size: tuple[int, int]) -> Found | None:
    """As large as the picture; None for an empty one."""
    whole = opencv().resize(np.uint8(255) * said.inside_HW, size, interpolation=opencv().INTER_LINEAR)
    whole = np.uint8(255) * (whole > 127)
    box = nonzero_box(whole)
    if box is None:
        return None
    left, top, right, bottom = box
    return Found(said.label, (left, top), whole[top:bottom, left:right], said.score)
