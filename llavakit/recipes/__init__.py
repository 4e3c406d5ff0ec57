"""Level 6: one recipe per released stage, each returning a complete Run.

`stage.py` says what a stage is; then one module per generation holds the stages, in the order of `model/families`.
"""

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from llavakit.core.progress import console
from llavakit.recipes import critic, llava, next_models, onevision, policies, preferences
from llavakit.recipes.stage import Stage
from llavakit.train.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "finetune": llava.finetune,
    "dpo": preferences.dpo,
    "mpo": preferences.mpo,
    "iterative-dpo": preferences.iterative_dpo,
    "online-dpo": preferences.online_dpo,
    "rejection-sft": preferences.rejection_sft,
    "kto": preferences.kto,
    "reward": preferences.reward,
    "grpo": policies.grpo,
    "grpo-tools": policies.grpo_tools,
    "rloo": policies.rloo,
    "ppo": policies.ppo,
    "critic": critic.critic,
    "critic-r1": critic.critic_r1,
    **{stage.name: stage for stage in (*llava.STAGES, *next_models.STAGES, *onevision.STAGES)},
}


def show_recipes() -> None:
    """Print every recipe with its line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name in RECIPES:
        table.add_row(name, Text(describe(name)))
    console.print(table)


def describe(name: str) -> str:
    """A recipe in one line."""
    recipe = RECIPES[name]
    return (
        recipe.description if isinstance(recipe, Stage) else (recipe.__doc__ or "").strip().partition("\n")[0]
    )
