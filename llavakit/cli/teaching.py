"""`llavakit tools lessons`: training data in which a model calls tools, written by a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llavakit.cli.asked import open_asked
from llavakit.cli.options import API_KEY, Seed, Template, finite


def lessons(
    images: Annotated[Path, typer.Argument(help="A folder of pictures, or a file of rows that name them.")],
    out: Annotated[
        Path, typer.Option(help="Folder for lessons.jsonl and its pictures; goes on where it ended.")
    ],
    facts: Annotated[
        list[Path] | None, typer.Option(help="What is known of them: captions, boxes; may be repeated.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The writer: a checkpoint or hub id.")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="Instead of --model: the URL of a server.")] = None,
    model_name: Annotated[str | None, typer.Option(help="--remote: the model to ask.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(envvar=API_KEY, help="--remote: the server's key.")
    ] = None,
    template: Template = None,
    tools: Annotated[
        str | None, typer.Option(help="Names of tools, commas between them; default: all.")
    ] = None,
    form: Annotated[
        Literal["hermes", "llava_plus", "json"], typer.Option(help="How calls are written (docs/agent.md).")
    ] = "llava_plus",
    each: Annotated[int, typer.Option(min=1, help="Lessons of every picture.")] = 1,
    plain: Annotated[
        float, typer.Option(min=0, max=1, callback=finite, help="The share that takes no tool.")
    ] = 0.3,
    temperature: Annotated[float, typer.Option(min=0, callback=finite, help="Of the writer.")] = 0.9,
    seed: Seed = 0,
) -> None:
    """Write talks in which tools are called: questions, real calls, and answers that rest on what came of them."""
    from llavakit.agent.forms import FORMS
    from llavakit.agent.opening import AgentConfig
    from llavakit.core.progress import say
    from llavakit.engine.sampler import Sampling
    from llavakit.synth.facts import Facts
    from llavakit.synth.items import Items
    from llavakit.synth.tool_use import LESSONS_FILE, Lessons, write_lessons

    items, known = list(Items(images)), Facts(facts or [])
    known.check(items)
    writer = open_asked(model, template, remote, model_name, api_key)
    names = None if tools is None else tuple(name.strip() for name in tools.split(","))
    how = Sampling(temperature=temperature, max_tokens=512, seed=seed)
    with AgentConfig(tools=names).open() as registry:
        made = Lessons(writer, registry, FORMS[form], out, plain=plain, how=how)
        kept, new = write_lessons(made, items, known, out / LESSONS_FILE, each=each)
    for reason, count in made.dropped.most_common():
        say(f"dropped {count}: {reason}")
    say(f"{new} lessons, {kept} in {out / LESSONS_FILE}")
