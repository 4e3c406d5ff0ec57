"""`llavakit reward`: answers scored by a reward model."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import API_KEY, Kernels, Weights
from llavakit.core.errors import ConfigError
from llavakit.core.progress import say

MOST_UNSCORABLE = 0.01  # of answers; above it the command fails


def reward(
    file: Annotated[Path, typer.Argument(help="Pairs, benchmark rows or conversations (docs/reward.md).")],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A reward model's run or directory, or the URL of its server."),
    ],
    out: Annotated[
        Path, typer.Option(help="Where the scores go, a line a record; a run goes on from there.")
    ],
    facts: Annotated[
        Path | None, typer.Option(help="Facts by picture: JSON, {file name: [texts]}; LLaVA-RLHF's is read.")
    ] = None,
    fact_field: Annotated[
        list[str] | None,
        typer.Option(help="A field of the records with facts, as captions; may be repeated."),
    ] = None,
    no_facts: Annotated[
        bool, typer.Option("--no-facts", help="Withhold facts from a model that was taught with them.")
    ] = False,
    model_name: Annotated[
        str | None, typer.Option(help="Of a URL: the model to ask, where the server has several.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar=API_KEY, help="Of a URL: the server's key.")] = None,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
) -> None:
    """Score the answers of a file, and say how often the better answer of its pairs scores higher.

    Exit code 1 if more than 1 % of the answers cannot be scored: they are listed and have no score.
    """
    from llavakit.align.remote_reward import RemoteRewardModel
    from llavakit.align.reward_model import open_reward_model
    from llavakit.align.scoring import draw_figures, figures_of, score_file
    from llavakit.data.facts import Facts, FactsConfig

    known = None
    if facts is not None or fact_field:
        if no_facts:
            raise ConfigError("--no-facts withholds facts; --facts and --fact-field give them: choose")
        known = Facts(FactsConfig(file=facts, fields=tuple(fact_field or ())))
    is_url = model.startswith(("http://", "https://"))
    scorer = (
        RemoteRewardModel(model, model_name=model_name, api_key=api_key)
        if is_url
        else open_reward_model(model, weights=weights, kernels=kernels)
    )
    rows = score_file(scorer, file, out, who=model, facts=known, withhold=no_facts)
    for row in rows:
        for problem in row["problems"]:
            say(f"no score: {file}:{row['line']}: {problem}")
    figures = figures_of(rows)
    say(draw_figures(figures))
    say(f"scores: {out}")
    if figures["unscorable"] > MOST_UNSCORABLE * figures["answers"]:
        raise typer.Exit(1)
