"""What a run writes for people: metrics.jsonl, one object a step, and curves.png."""

import json
from pathlib import Path
from typing import Any

from llavakit.core.files import write_text

Row = dict[str, Any]


class Metrics:
    """The step log of a run directory. After a resume, steps behind the checkpoint are cut off and run again."""

    def __init__(self, folder: Path, *, done: int = 0, writes: bool = True) -> None:
        """Only one process of a run `writes`; the others keep the rows in memory."""
        self.path, self.writes = folder / "metrics.jsonl", writes
        self.rows: list[Row] = [row for row in read_metrics(self.path) if row["step"] <= done]
        if writes:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


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
    """Loss of each stage against the step, with a running mean, as a PNG."""
    # Imported here: it costs half a second, and only ends of runs draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    start = 0
    for number, (name, rows) in enumerate(stages.items()):
        if not rows:
            continue
        steps = [start + row["step"] for row in rows]
        losses = [row["loss"] for row in rows]
        colour = f"C{number}"
        axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=1)
        axes.plot(
            steps, _running_mean(losses, max(1, len(losses) // 20)), color=colour, linewidth=2, label=name
        )
        start = steps[-1]
    axes.set_xlabel("step")
    axes.set_ylabel("loss per learned token (nats)")
    axes.set_yscale("log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def _running_mean(values: list[float], width: int) -> list[float]:
    out = []
    for index in range(len(values)):
        window = values[max(0, index - width + 1) : index + 1]
        out.append(sum(window) / len(window))
    return out
