"""Whom a verb asks: a model here or one behind a URL, and the names that its answers are kept under."""

import os
from pathlib import Path
from typing import Any

from llavakit.cli.options import API_KEY, Weights
from llavakit.core.errors import ConfigError

Who = dict[str, str | None]


def open_model(model: Path, template: str | None, weights: Weights = "as_is") -> tuple[Any, Who]:
    """A model in this process; the number format of its decoder's weights is part of who answers."""
    from llavakit.chat import load
    from llavakit.model.adapters import fingerprint
    from llavakit.model.directory import resolve

    folder = resolve(model)
    who: Who = {"model": str(model), "weights": fingerprint(folder), "template": template}
    if weights != "as_is":
        who["format"] = weights
    return load(model, template_name=template, weights=weights), who


def open_remote(url: str, model_name: str | None, api_key: str | None, **how: float) -> tuple[Any, Who]:
    """A model behind an OpenAI-compatible server; `how` are settings of `Remote`."""
    from llavakit.remote import Remote

    asked = Remote(url, model_name=model_name, api_key=api_key, **how)  # type: ignore[arg-type]
    return asked, {"model": asked.model_name, "weights": None}


def open_asked(
    model: Path | None,
    template: str | None,
    remote: str | None,
    model_name: str | None,
    api_key: list[str] | None,
) -> Any:
    """Who was named: a model here, or one behind a URL. ConfigError for both, and for neither."""
    if remote is not None and model is None and template is None:
        return open_remote(remote, model_name, api_key[0] if api_key else None)[0]
    if model is not None and remote is None and model_name is None:
        return open_model(model, template)[0]
    raise ConfigError(
        "give --model with a directory (and --template), or --remote with a URL (and --model-name)"
    )


def open_judge(
    where: str, template: str | None, model_name: str | None, api_key: str | None, **how: float
) -> tuple[Any, Who]:
    """A judge: a URL, or a model's directory, hub id or name."""
    if where.startswith(("http://", "https://")):
        return open_remote(where, model_name, api_key, **how)
    return open_model(Path(where), template)


def open_responder(where: str) -> Any:
    """The judge that a reward asks; a server gets the key of the environment."""
    return open_judge(where, None, None, os.environ.get(API_KEY))[0]
