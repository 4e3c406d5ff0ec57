"""What a run writes for people: metrics.jsonl, one object a step, and curves.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llavakit.core.files import write_text
from llavakit.core.plot import SMALL, add_legend, new_figure, style
from llavakit.train.events import open_events

Row = dict[str, Any]
PANELS = 4  # beside each other
FEW = 40  # points that are seen one by one


class Metrics:
    """The step log of a run directory. After a resume, steps behind the checkpoint are cut off and run again."""

    def __init__(
        self, folder: Path, *, done: int = 0, writes: bool = True, tensorboard: bool = False
    ) -> None:
        """Only one process of a run `writes`; the others keep the rows in memory."""
        self.path, self.writes = folder / "metrics.jsonl", writes
        self.rows: list[Row] = [row for row in read_metrics(self.path) if row["step"] <= done]
        if writes:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._events = open_events(folder, wanted=tensorboard and writes, done=done)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if self._events is not None:
            self._events.add(row)


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; a half-written last line (a killed run) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw_curves(stages: dict[str, list[Row]], path: Path) -> None:
    """Loss of each stage against the step as a PNG: every step, a running mean, held-out loss, and spikes."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4.2)
    axes = figure.subplots()
    start = 0
    for number, (name, rows) in enumerate(stages.items()):
        if not rows:
            continue
        _draw_stage(axes, f"C{number}", name, rows, start)
        start += rows[-1]["step"]
    if all(row["loss"] > 0 for rows in stages.values() for row in rows):  # a policy's lies around zero
        axes.set_yscale("log")
    style(axes, "Loss per learned token (nats)")
    axes.set_xlabel("step", fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no step 2.5
    add_legend(axes)
    figure.savefig(path)


def _draw_stage(axes: Any, colour: str, name: str, rows: list[Row], start: int) -> None:
    """One run's curves, its first step at `start`. `eval_loss` and `spike` are in the rows of some steps only."""
    steps = [start + row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    smooth = _running_mean(losses, max(1, len(losses) // 20))
    axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=1)
    axes.plot(steps, smooth, color=colour, linewidth=2, label=name)
    held_out = [(start + row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
    if held_out:
        style = {"linestyle": "--", "linewidth": 1.2, "marker": "o", "markersize": 4}
        axes.plot(*zip(*held_out, strict=True), color=colour, **style, label=f"{name}, held out")
    spikes = [(start + row["step"], row["loss"]) for row in rows if "spike" in row]
    if spikes:
        axes.scatter(*zip(*spikes, strict=True), color="red", marker="x", zorder=3, label=f"{name}, spikes")


def _running_mean(values: list[float], width: int) -> list[float]:
    out = []
    for index in range(len(values)):
        window = values[max(0, index - width + 1) : index + 1]
        out.append(sum(window) / len(window))
    return out


def draw_panels(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """A PNG with a small panel for each of these figures against the step, where a row has it."""
    shown = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return
    lines = -(-len(shown) // PANELS)
    figure = new_figure(3 * PANELS, 2.2 * lines, fitted=False)
    figure.subplots_adjust(0.05, 0.3 / lines, 0.98, 1 - 0.25 / lines, 0.3, 0.45)
    for number, (name, points) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(lines, PANELS, number)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < FEW else "")
        axes.locator_params(nbins=4)
        style(axes, name)
    figure.savefig(path)
