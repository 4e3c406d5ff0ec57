"""Where a model lies, and its card: what a path, or the name of a run, stands for."""

from pathlib import Path

from llavakit.core.config import make
from llavakit.core.errors import CheckpointError
from llavakit.core.files import read_json
from llavakit.model.card import Card
from llavakit.model.formats.original import card_settings, is_original, need_template, vision_settings
from llavakit.model.hf_card import MODEL_TYPES, card_fields

LATEST = "latest"  # a text file in a run directory that names the newest checkpoint beside it


def resolve(path: Path) -> Path:
    """The directory with the weights: `path` itself, or what the run directory's `latest` file names."""
    for _ in range(4):
        if (path / "config.json").is_file():
            return path
        pointer = path / LATEST
        if not pointer.is_file():
            break
        path = path / pointer.read_text().strip()
    what = "is not a checkpoint (no config.json and no 'latest' file)" if path.exists() else "does not exist"
    raise CheckpointError(f"{path} {what}")


def load_card(path: Path, template_name: str | None = None) -> Card:
    """The llavakit section; for a plain Hugging Face directory, what its config says in other words."""
    folder = resolve(path)
    config = read_json(folder / "config.json")
    chosen = {} if template_name is None else {"template": template_name}
    if "llavakit" in config:
        section = {key: value for key, value in config["llavakit"].items() if key != "version"} | chosen
        return make(Card, section, where=f"{folder}/config.json: llavakit")
    if is_original(config):
        where = f"{folder}/config.json"
        if template_name is None:
            raise need_template(config, where)
        return make(Card, card_settings(config, vision_settings(config, where), where) | chosen, where=where)
    if config.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder}: model_type {config.get('model_type')!r} is not a LLaVA that llavakit reads"
        )
    if template_name is None:
        raise CheckpointError(
            f"{folder}: a Hugging Face directory does not say which prompt template it was trained with; name one"
        )
    return make(Card, card_fields(config, folder) | chosen, where=f"{folder}/config.json")
