"""How every plot looks. matplotlib is imported by who draws: it costs half a second, and only ends of runs draw."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
SMALL = 9  # points, of a title and of what stands in a legend


def new_figure(width: float, height: float, *, fitted: bool = True) -> "Figure":
    """A figure of so many inches. `fitted`: margins as wide as its words are; of many panels that takes seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def style(axes: Any, title: str, *, grid: str = "both") -> None:
    """A title at the left, no frame, a quiet grid along `grid` (x, y, both, or none)."""
    axes.set_title(title, loc="left", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL - 1)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(alpha=0.25, axis=grid, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def add_legend(axes: Any) -> None:
    """Above the plot, at the right: inside it would hide what is drawn."""
    axes.legend(frameon=False, fontsize=SMALL - 1, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
