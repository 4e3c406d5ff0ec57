"""Where a model lies, and its card: what a path, a hub id or a released model's name stands for."""

import difflib
from pathlib import Path
from typing import Any

from llavakit.core.config import make
from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.model.card import Card
from llavakit.model.families import FAMILIES, family_of
from llavakit.model.families.row import Family
from llavakit.model.formats.hub import fetch, hub_id_of, is_hub_id, locate
from llavakit.model.formats.lora import ADAPTER, named_base
from llavakit.model.formats.original import card_settings, is_original, need_template, vision_settings
from llavakit.model.hf_card import MODEL_TYPES, card_fields
from llavakit.model.settings import ModelConfig

LATEST = "latest"  # a text file in a run directory that names the newest checkpoint beside it


def resolve(path: Path, *, weights: bool = True) -> Path:
    """The directory that a name stands for.

    It is `path` itself, what the run directory's `latest` file names, or in the hub's cache the model with this hub
    id (`organisation/model`, `organisation/model@revision`) or the released one of this name (`llava16-7b`). Those
    are fetched if need be, without `weights` their settings alone. Raises CheckpointError.
    """
    if not path.exists():
        return fetch(_hub_id(str(path)), weights=weights)
    for _ in range(4):
        if (path / "config.json").is_file() or (path / ADAPTER).is_file():
            return path
        pointer = path / LATEST
        if not pointer.is_file():
            break
        path = path / pointer.read_text().strip()
    what = "is not a checkpoint (no config.json and no 'latest' file)" if path.exists() else "does not exist"
    raise CheckpointError(f"{path} {what}")


def _hub_id(name: str) -> str:
    if name in FAMILIES:
        released = FAMILIES[name].released
        if released is None:
            raise CheckpointError(f"{name}: no weights of this model were released")
        return released
    if is_hub_id(name):
        return name
    close = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.8)
    hint = f"; did you mean the released model {close[0]!r}?" if close else ""
    raise CheckpointError(f"{name} does not exist{hint}")


def is_bare_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter of peft and no settings of the model it belongs to."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def settings_of(folder: Path, base: Path | None = None) -> dict[str, Any]:
    """config.json of a model directory; an adapter without one has that of its base (which `base` may replace)."""
    if is_bare_adapter(folder):
        folder = named_base(folder) if base is None else locate(base)
    return read_json(folder / "config.json")


def released_family(folder: Path) -> Family | None:
    """The released model in a directory of the hub's cache; any other directory is nobody's."""
    hub_id = hub_id_of(folder)
    return None if hub_id is None else family_of(hub_id)


def load_card(path: Path, template_name: str | None = None, *, tower: str | None = None) -> Card:
    """The llavakit section; for a plain Hugging Face or original directory, what its config says in other words.

    Those do not say their template: it has to be named, unless they are a released model, fetched by its hub id.
    `tower` is read instead of the one that an original directory names.
    """
    folder = resolve(path, weights=False)
    if is_bare_adapter(folder):
        return load_card(named_base(folder), template_name, tower=tower)
    config = read_json(folder / "config.json")
    chosen = {} if template_name is None else {"template": template_name}
    if "llavakit" in config:
        section = {key: value for key, value in config["llavakit"].items() if key != "version"} | chosen
        return make(Card, section, where=f"{folder}/config.json: llavakit")
    row = released_family(folder)
    if template_name is None and row is not None:
        template_name, chosen = row.card.template, {"template": row.card.template}
    if is_original(config):
        where = f"{folder}/config.json"
        if template_name is None:
            raise need_template(config, where)
        return make(
            Card, card_settings(config, vision_settings(config, where, tower), where) | chosen, where=where
        )
    if config.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: model_type {config.get('model_type')!r} is not a LLaVA that llavakit reads"
        )
    if template_name is None:
        raise CheckpointError(
            f"{folder}: a Hugging Face directory does not say which prompt template it was trained with; name one "
            "(--template, in a run model.template; all: llavakit models --templates)"
        )
    return make(Card, card_fields(config, folder) | chosen, where=f"{folder}/config.json")


def complete_card(config: ModelConfig) -> Card:
    """The card of a run's model; reads the start's config.json where something is left out."""
    chosen = {
        "tower": config.tower, "connector": config.connector, "image": config.image,
        "video": config.video, "template": config.template, "im_start_end": config.im_start_end,
    }  # fmt: skip
    given = {name: value for name, value in chosen.items() if value is not None}
    if len(given) == len(chosen) or config.start is None:
        card = Card(**given)
    else:
        card = load_card(config.start, config.template).model_copy(update=given)
    if config.image_depth is None:
        return card
    return card.model_copy(update={"image": card.image.model_copy(update={"depth": config.image_depth})})
