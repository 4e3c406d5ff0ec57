"""`llavakit chat`: ask a model about pictures, here or behind a URL."""

from pathlib import Path
from typing import Annotated

import typer

from llavakit.cli.options import (
    Kernels,
    RemoteKeys,
    RemoteModel,
    RemoteUrl,
    RopeFactor,
    Seed,
    Template,
    Weights,
    finite,
)
from llavakit.core.errors import ConfigError


def chat(
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Checkpoint or run directory, or a hub id.")
    ] = None,
    question: Annotated[
        str | None, typer.Argument(help="Ask once and exit; without it, a conversation.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="A picture; may be repeated.")
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option("--video", "-v", help="A video file or a folder of frames; may be repeated."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text instead of the template's own.")] = None,
    temperature: Annotated[float, typer.Option(min=0, callback=finite, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, callback=finite)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    seed: Seed = 0,
    rope_factor: RopeFactor = None,
    weights: Weights = "as_is",
    kernels: Kernels = "auto",
    template: Template = None,
    remote: RemoteUrl = None,
    model_name: RemoteModel = None,
    api_key: RemoteKeys = None,
) -> None:
    """Talk to a model about pictures, once or in a conversation."""
    from llavakit.vision.image import load_image
    from llavakit.vision.video import probe_video

    for path in image or []:  # before a model is read, which may take minutes
        load_image(path)
    for path in video or []:
        probe_video(path)

    from llavakit.engine.responder import Responder
    from llavakit.engine.sampler import Sampling
    from llavakit.terminal import Terminal

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    answering: Responder
    ours = template is not None or rope_factor is not None or (weights, kernels) != ("as_is", "auto")
    if remote is not None and model is None and not ours:
        from llavakit.remote import Remote

        answering = Remote(remote, model_name=model_name, api_key=api_key[0] if api_key else None)
    elif remote is None and model is not None and model_name is None:
        from llavakit.chat import load
        from llavakit.core.progress import say

        answering = load(
            model, template_name=template, rope_factor=rope_factor, weights=weights, kernels=kernels
        )
        if question is None:
            say(answering.engine.about)
    else:
        raise ConfigError(
            "give --model with a directory, or --remote with a URL (and --model-name); "
            "--template, --rope-factor, --weights and --kernels are for --model"
        )
    terminal = Terminal(answering, sampling, images=image or [], videos=video or [], system_text=system)
    if question is not None:
        terminal.ask(question)
    else:
        terminal.talk()
