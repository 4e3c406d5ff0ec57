"""A recipe on many GPUs: rows for all of them, and as many tokens in a step as published."""

import os
from collections.abc import Callable, Sequence

from llavakit.core.progress import say
from llavakit.recipes.stage import Stage
from llavakit.train.run import Run

GRAIN = 64  # tokens of a row are a multiple of it


def adopt_ranks(
    run: Run,
    recipe: Callable[[], Run],
    given: Sequence[str],
    ranks: int | None,
    *,
    resume: bool,
    tell: bool = True,
) -> Run:
    """The run for so many ranks (default: those that `torchrun` started); `tell`: in a line where that changes it.

    Rows or tokens that were given stay, and so do those of a run that goes on.
    """
    ranks = ranks or int(os.environ.get("WORLD_SIZE", "1"))
    said = {setting.partition("=")[0] for setting in given}
    if ranks == 1 or {"optim.rows", "data.tokens"} & said or run.policy is not None:
        return run
    # They load PyTorch, which one rank does not need to show a recipe.
    from llavakit.model.directory import complete_card
    from llavakit.train import run_directory

    if resume and run_directory.newest_checkpoint(run.out) is not None:
        started = run_directory.read_settings(run.out)
        return with_rows(run, started.optim.rows, started.data.tokens)
    longest = recipe.longest(complete_card(run.model)) if isinstance(recipe, Stage) else run.data.tokens
    rows, tokens = fit_rows(run.optim.rows, run.data.tokens, ranks, longest)
    if tell and (rows, tokens) != (run.optim.rows, run.data.tokens) and os.environ.get("RANK", "0") == "0":
        was = f"{run.optim.rows} x {run.data.tokens:,}"
        say(f"{run.name} on {ranks} ranks: a step has {rows} rows x {tokens:,} tokens instead of {was}")
    return with_rows(run, rows, tokens)


def with_rows(run: Run, rows: int, tokens: int) -> Run:
    optim, data = run.optim.model_copy(update={"rows": rows}), run.data.model_copy(update={"tokens": tokens})
    return run.model_copy(update={"optim": optim, "data": data})


def fit_rows(rows: int, tokens: int, ranks: int, longest: int) -> tuple[int, int]:
    """(rows, tokens of a row) of a step of as many tokens, in which no rank is idle if that can be.

    A row has room for `longest` tokens, and for more than before only where fewer would be too few for that.
    """
    whole, passes = rows * tokens, -(-rows // ranks)
    if rows % ranks == 0:
        return rows, tokens
    room = min(-(-longest // GRAIN) * GRAIN, tokens)
    more, fewer = passes * ranks, (passes - 1) * ranks
    each = round(whole / more / GRAIN) * GRAIN
    if each >= room:
        return more, each
    if fewer:
        return fewer, -(-whole // fewer // GRAIN) * GRAIN
    count = whole // room  # as many as can be: some ranks stay idle
    return (rows, tokens) if count <= rows else (count, whole // count // GRAIN * GRAIN)
