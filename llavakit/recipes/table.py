"""docs/recipes.md, written from the recipes: python -m llavakit.recipes.table > docs/recipes.md"""

from llavakit.core.progress import say
from llavakit.recipes import RECIPES
from llavakit.recipes.stage import Stage

HEAD = """# Recipes

<!-- Written by `python -m llavakit.recipes.table > docs/recipes.md`; a test keeps it current. -->

Every released stage by name. `llavakit train NAME --show` prints all of its settings, and each can be changed there
as `path=value`.

```bash
llavakit train list
llavakit train next-stage2-7b --show
```

- *trained* names the parts that learn with their peak learning rates; everything else is frozen.
- *batch* is the published number of samples in a step. A run's *step* is rows x tokens: packed rows that hold
  about so many. How long a mean sample is taken to be stands beside the stages in `llavakit/recipes`.
- *data* lies in `data/` under the names it was published with. `data.images=FOLDER` says where the pictures are.
- *starts from* is the run before, in `runs/`, or weights others released, in `released/`. `model.start=DIR`
  names another start: tower, connector, tile size and grid then come from there, and the template too, unless the
  start is a first stage, which has none worth keeping. What you set yourself (`model.template=...`) stays.
- *unverified* names every number that no source we read states; it is then taken from the nearest one that does.

Stages of this size were not run here. Each is tested with tiny parts, five of them until the loss falls.
"""
COLUMNS = (
    "recipe", "stage", "trained", "batch", "step", "epochs", "data", "starts from", "unverified",
)  # fmt: skip


def recipes_page() -> str:
    """The whole page in Markdown: a table for every publication."""
    stages = [recipe for recipe in RECIPES.values() if isinstance(recipe, Stage)]
    lines = [HEAD]
    for system in dict.fromkeys(stage.system for stage in stages):
        lines += [f"## {system}", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        lines += [_row(_cells(stage)) for stage in stages if stage.system == system]
        lines.append("")
    return "\n".join(lines)


def _cells(stage: Stage) -> list[str]:
    run = stage()
    return [
        f"`{stage.name}`",
        stage.does,
        stage.learns,
        str(stage.batch),
        f"{run.optim.rows} x {run.data.tokens}",
        f"{run.optim.epochs:g}",
        ", ".join(f"`{file}`" for file in stage.data),
        f"`{stage.start}`" if stage.start else f"`{stage.family.decoder.path}`, `{stage.family.vision.path}`",
        "; ".join(stage.unverified),
    ]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    say(recipes_page().rstrip("\n"))
