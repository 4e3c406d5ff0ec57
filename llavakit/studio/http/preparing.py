"""What is found out about a picture before anybody asks, step by step, for a chip on the page to tell."""

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from llavakit.core.errors import UserError
from llavakit.engine.fault import Boundary, report
from llavakit.studio.engines import Bench, Step
from llavakit.studio.looking import SceneView
from llavakit.studio.scene import Layer, Scene
from llavakit.studio.segment.naming import Noticed, notice
from llavakit.studio.session import Session
from llavakit.studio.tiles import raster_of
from llavakit.text.calls import ToolUnavailable

NOTICED = 8  # things that are told of


@dataclass
class Progress:
    """One step. `seconds` it has taken, `trouble`: why it failed."""

    title: str
    state: Literal["waiting", "under way", "done", "failed"] = "waiting"
    seconds: float = 0.0
    trouble: str = ""


def warm_up(bench: Bench) -> None:
    """Read all networks once, on a blank picture: the first that comes need not wait for them."""
    raster = raster_of(np.full((64, 64, 4), 255, np.uint8))
    view = SceneView(Scene(raster.size, (Layer(0, "blank", "photo", raster),)))
    with Boundary():  # what fails here fails again for the first picture, and is told there
        for step in all_steps(bench, view, lambda: notice(view)):
            step.run()


def all_steps(bench: Bench, view: SceneView, names: Callable[[], object]) -> list[Step]:
    """Those of the segmenter, and `names`, which looks for things that have some."""
    return [*bench.segmenter().steps(view), Step("names", names)]


class Preparation:
    """The steps of one picture: those of its segmenter, then the things in it that have names."""

    def __init__(self) -> None:
        self._steps = [Progress("the picture")]  # until somebody has the time to tell which
        self._noticed: list[Noticed] = []
        self._looked_at: Hashable = None  # the key of what was noticed in

    def run(self, session: Session) -> None:
        """All of them, in a thread that has the time. What fails is told, and the rest goes on."""
        view = SceneView(session.scene)
        opening = self._steps[0]
        steps: list[Step] = []
        self._do(opening, lambda: steps.extend(all_steps(session.bench, view, lambda: self._notice(view))))
        if opening.state == "failed":
            return
        self._steps = [Progress(step.title) for step in steps]
        for progress, step in zip(self._steps, steps, strict=True):
            self._do(progress, step.run)

    def describe(self) -> list[dict[str, Any]]:
        """For the page."""
        return [asdict(each) for each in self._steps]

    def noticed(self, session: Session) -> list[dict[str, Any]]:
        """The things that have names, as long as the picture is the one that they were seen in."""
        same = self._noticed and SceneView(session.scene).key == self._looked_at
        return [asdict(each) for each in self._noticed] if same else []

    def _notice(self, view: SceneView) -> None:
        with suppress(ToolUnavailable):  # names are offered; nobody asked for them
            self._looked_at, self._noticed = view.key, notice(view)[:NOTICED]

    def _do(self, progress: Progress, work: Callable[[], object]) -> None:
        progress.state, started = "under way", time.perf_counter()
        with Boundary() as own:
            work()
        progress.seconds = round(time.perf_counter() - started, 3)
        if own.error is None:
            progress.state = "done"
            return
        known = isinstance(own.error, UserError)
        progress.trouble = str(own.error) if known else "it failed; the server's log says where"
        progress.state = "failed"
        if not known:
            report(f"looking at a picture failed: {progress.title}", own.error)
