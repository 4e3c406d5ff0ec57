"""Level 6: one recipe per released stage, each returning a complete Run.

`stage.py` says what a stage is; then one module per generation holds the stages, in the order of `model/families`.
"""

from collections.abc import Callable

from llavakit.recipes import llava, next_models, onevision, preferences
from llavakit.recipes.stage import Stage
from llavakit.train.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "finetune": llava.finetune,
    "dpo": preferences.dpo,
    "mpo": preferences.mpo,
    **{stage.name: stage for stage in (*llava.STAGES, *next_models.STAGES, *onevision.STAGES)},
}


def describe(name: str) -> str:
    """A recipe in one line."""
    recipe = RECIPES[name]
    return recipe.description if isinstance(recipe, Stage) else (recipe.__doc__ or "").strip()
